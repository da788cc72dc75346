"""Files that are there whole or not at all, whatever is killed or runs twice."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

TEMPORARY = ".partial"
BEGIN = 2**24  # bytes after which the disk is asked to begin, so that the sync at the end waits for little
PIECE = 2**18  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Written:
    """What a file held when it was written."""

    bytes: int
    sha256: str
    crc32c: str


def write_atomically(path: Path, pieces: Iterable[bytes]) -> Written:
    """Write the pieces to a temporary name beside `path`, sync, and rename it into place.

    Two writers of one path do no harm: each has its own temporary name and the last rename wins.
    Nothing is left behind when the pieces or the disk raise; only a killed process leaves its temporary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
    digest, crc, size, begun = hashlib.sha256(), 0, 0, 0
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                crc = google_crc32c.extend(crc, piece)
                size += len(piece)
                if size >= begun + BEGIN:  # what is not on the disk yet is not dropped but sent there
                    os.posix_fadvise(file.fileno(), begun, size - begun, os.POSIX_FADV_DONTNEED)
                    begun = size
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp makes it readable by its owner alone
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    _sync_folder(path.parent)
    return Written(size, digest.hexdigest(), f"{crc:08x}")


def write_json(path: Path, value: Any) -> Written:
    """Write `value` as JSON, whole or not at all."""
    return write_atomically(path, [(json.dumps(value, indent=1) + "\n").encode()])


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; lets other threads run meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32c_of(path: Path) -> str:
    """The CRC-32C of a file, in hexadecimal."""
    crc = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            crc = google_crc32c.extend(crc, piece)
    return f"{crc:08x}"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left anywhere below `folder`."""
    for leftover in folder.rglob(f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work in `folder`; the system ends the turn of one that is killed.

    A stage goes on when Snakemake alone is killed, and the next Snakemake must not get in its way.
    """
    if not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another run that is at work in {folder}", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # some network file systems lock nothing; two runs do no harm, they are only slower
        pass
    try:
        yield
    finally:
        os.close(handle)
