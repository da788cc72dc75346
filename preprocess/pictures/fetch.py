"""Reads the bytes of images in place: from archives, or from files of their own."""

import errno
import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError
from preprocess.pictures.images import MAX_BYTES, UnreadableError
from preprocess.plan import Plan

OF_THE_FILE = {  # errors of one file; others, such as too many open files, are not its fault
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    errno.EIO,
}
AHEAD = 16  # images prefetched, 2 MB; at 400 images a second the disk has 40 ms for each


@dataclass(frozen=True, slots=True)
class Requested:
    """An image that the system was asked to prefetch."""

    name: str
    _file: FileIO | OSError  # why it cannot be opened
    _offset: int
    _length: int
    _is_archive: bool

    def read(self) -> bytes:
        """The image file's bytes. Call it once, before the next image. Raises UnreadableError."""
        try:
            if isinstance(self._file, OSError):
                raise self._file
            if self._length > MAX_BYTES:
                raise UnreadableError(f"has {self._length} bytes, more than {MAX_BYTES}")
            data = os.pread(self._file.fileno(), self._length, self._offset)
            if len(data) != self._length:
                raise UnreadableError("shorter than when it was indexed")
            return data
        except OSError as error:
            if error.errno not in OF_THE_FILE:
                raise
            raise UnreadableError(f"cannot be read: {error.strerror}") from error
        finally:
            self.close()

    def prefetch(self) -> None:
        """Ask the system to begin reading, where it has posix_fadvise."""
        # a length of 0 would mean the rest of the file
        wanted = 0 < self._length <= MAX_BYTES and hasattr(os, "posix_fadvise")
        if wanted and isinstance(self._file, FileIO):
            os.posix_fadvise(self._file.fileno(), self._offset, self._length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the image's own file; an archive stays open for other images."""
        if isinstance(self._file, FileIO) and not self._is_archive:
            self._file.close()


def fetch(plan: Plan, rows: NDArray[np.void]) -> Iterator[Requested]:
    """Yield the images of these rows of a table, in order.

    Each image is prefetched AHEAD images before: the order is random, so the system cannot guess it.

    Raises:
        UserError: the source is gone.
        OSError: no file can be opened.
    """
    requested: deque[Requested] = deque()
    with ExitStack() as stack:
        archives = [stack.enter_context(_open_archive(Path(plan.source, name))) for name in plan.archives]
        try:
            for raw_name, number, offset, length, _ in rows.tolist():
                name = os.fsdecode(raw_name)
                file = archives[number] if number >= 0 else _open_image(plan.source, name)
                requested.append(Requested(name, file, offset, length, number >= 0))
                requested[-1].prefetch()
                if len(requested) > AHEAD:
                    yield requested.popleft()
            while requested:
                yield requested.popleft()
        finally:
            for image in requested:
                image.close()


def _open_archive(path: Path) -> FileIO:
    try:
        return FileIO(path)
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        raise UserError(
            f"the archive {path} cannot be opened ({error.strerror}): make it readable, and run again"
        ) from error


def _open_image(source: str, name: str) -> FileIO | OSError:
    """An image's own file, or why it cannot be opened. Raises UserError where the whole source is gone."""
    try:
        return FileIO(Path(source, name))
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        top = Path(source, Path(name).parts[0])  # train/ may be a link to another disk
        try:
            there = any(top.iterdir())
        except OSError:
            there = False
        if there:  # a disk that is not mounted leaves an empty folder
            return error
        raise UserError(
            f"the images are gone: {top} is no longer there, or empty; put it back, and run again"
        ) from error
