"""Atomic writes: after a crash or a second writer, a file holds the old content or the new, never a part."""

import errno
import fcntl
import glob
import hashlib
import json
import mmap
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import crc32c

TEMPORARY = ".partial"
BUFFER = 2**20  # bytes read or written at a time: whole blocks of any disk, at an address that is one too
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux's


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """Yield the descriptor of a new temporary file in the folder of `path`; sync and rename it at the end.

    Two processes may write the same path: each has its own temporary name, and the last rename wins.
    An exception removes the temporary file; a killed process leaves it (see `remove_leftovers`). Missing
    folders are made.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask takes
    try:
        try:
            yield handle
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically and make its missing folders. Raises OSError."""
    with replacing(path) as handle, os.fdopen(handle, "wb", closefd=False) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. Raises OSError."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; lets other threads run meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32c_of(path: Path) -> str:
    """The CRC-32C of what the disk holds of a file, in hexadecimal; lets other threads run meanwhile."""
    crc = 0
    with path.open("rb", buffering=0) as file, mmap.mmap(-1, BUFFER) as buffer, memoryview(buffer) as whole:
        past_the_cache(file.fileno(), True)
        while found := _read(file.fileno(), buffer):
            crc = crc32c.crc32c(whole[:found], crc)
    return f"{crc:08x}"


def _read(handle: int, buffer: mmap.mmap) -> int:
    try:
        return os.readv(handle, [buffer])
    except OSError as error:
        # some file systems say only here that they do not do this
        if error.errno != errno.EINVAL or not past_the_cache(handle, False):
            raise
        return os.readv(handle, [buffer])


def past_the_cache(handle: int, on: bool) -> bool:
    """Go round the page cache or not; whether that changed anything. Not every file system can."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    wanted = flags | DIRECT if on else flags & ~DIRECT
    if wanted == flags:
        return False
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, wanted)
    except OSError:
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers anywhere below `folder`; subfolders are never removed."""
    for leftover in folder.rglob(f".*{TEMPORARY}"):
        if not leftover.is_dir():  # a checkpoint in the making is a folder with this suffix
            leftover.unlink(missing_ok=True)


def remove_leftovers_of(path: Path) -> None:
    """Remove the temporary files of killed writers of this one path."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        if not leftover.is_dir():
            leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut. Raises OSError."""
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
