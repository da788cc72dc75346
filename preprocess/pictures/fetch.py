"""Reads the bytes of images in place: from archives, or from files of their own."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.pictures.images import MAX_BYTES, UnreadableError
from preprocess.plan import Plan

AHEAD = 16  # images prefetched, 2 MB; at 400 images a second the disk has 40 ms for each


@dataclass(frozen=True, slots=True)
class Requested:
    """An image that the system was asked to prefetch."""

    name: str
    _file: FileIO
    _offset: int
    _length: int
    _is_archive: bool

    def read(self) -> bytes:
        """The image file's bytes. Call it once, before the next image. Raises UnreadableError."""
        try:
            if self._length > MAX_BYTES:
                raise UnreadableError(f"has {self._length} bytes, more than {MAX_BYTES}")
            data = os.pread(self._file.fileno(), self._length, self._offset)
            if len(data) != self._length:
                raise UnreadableError("shorter than when it was indexed")
            return data
        finally:
            self.close()

    def prefetch(self) -> None:
        """Ask the system to begin reading, where it has posix_fadvise."""
        # a length of 0 would mean the rest of the file
        if 0 < self._length <= MAX_BYTES and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), self._offset, self._length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the image's own file; an archive stays open for other images."""
        if not self._is_archive:
            self._file.close()


def fetch(plan: Plan, rows: NDArray[np.void]) -> Iterator[Requested]:
    """Yield the images of these rows of a table, in order.

    Each image is prefetched AHEAD images before: the order is random, so the system cannot guess it.

    Raises:
        OSError: the source is gone.
    """
    requested: deque[Requested] = deque()
    with ExitStack() as stack:
        archives = [stack.enter_context(FileIO(Path(plan.source, name))) for name in plan.archives]
        try:
            for raw_name, number, offset, length, _ in rows.tolist():
                name = os.fsdecode(raw_name)
                file = archives[number] if number >= 0 else FileIO(Path(plan.source, name))
                requested.append(Requested(name, file, offset, length, number >= 0))
                requested[-1].prefetch()
                if len(requested) > AHEAD:
                    yield requested.popleft()
            while requested:
                yield requested.popleft()
        finally:
            for image in requested:
                image.close()
