"""Atomic writes: after a crash or a second writer, a file holds the old content or the new, never a part."""

import errno
import glob
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """Yield the descriptor of a new temporary file in the folder of `path`; sync and rename it at the end.

    Two processes may write the same path: each has its own temporary name, and the last rename wins.
    An exception removes the temporary file; a killed process leaves it (see `remove_leftovers`). Missing
    folders are made. A link stays, and the file that it names is replaced. A pipe, a device and this
    process's own output are written to, never replaced.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    if (stream := _stream(path)) is not None:
        try:
            yield stream
        finally:
            os.close(stream)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # the umask applies
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


def _stream(path: Path) -> int | None:
    """A descriptor of what is no regular file or is stdout or stderr; None for all other paths."""
    if (there := _status(path)) is None:
        return None
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            own = os.path.samestat(there, os.fstat(number))
        except OSError:  # closed
            continue
        if own:
            stream.flush()
            return os.dup(number)
    return None if stat.S_ISREG(there.st_mode) else os.open(path, os.O_WRONLY)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def check_output(path: Path) -> None:
    """Before the work: try whether an output can be written, and its missing folders made. Leaves nothing.

    Raises:
        OSError: it cannot.
    """
    there = _status(path)
    if there and stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if there and not stat.S_ISREG(there.st_mode):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    path = Path(os.path.realpath(path))
    folder = next(above for above in path.parents if above.exists())
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name[:200]}.", suffix=TEMPORARY):
        pass


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically and make its missing folders. Raises OSError."""
    with replacing(path) as handle, os.fdopen(handle, "wb", closefd=False) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. Raises OSError."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers anywhere below `folder`; subfolders are never removed."""
    for leftover in folder.rglob(f".*{TEMPORARY}"):
        if not leftover.is_dir():  # an unfinished checkpoint is a folder with this suffix
            leftover.unlink(missing_ok=True)


def remove_leftovers_of(path: Path) -> None:
    """Remove the temporary files of killed writers of this one path."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        if not leftover.is_dir():
            leftover.unlink(missing_ok=True)
