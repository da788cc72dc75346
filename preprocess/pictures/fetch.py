"""The bytes of pictures, from where they lie: archives that are read in place, or files of their own."""

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

AHEAD = 16  # pictures; at 400 a second the disk has 40 ms for each, and they take 2 MB


@dataclass(frozen=True, slots=True)
class Wanted:
    """A picture that the system was asked for."""

    name: str
    _file: FileIO
    _offset: int
    _length: int
    _is_archive: bool

    def read(self) -> bytes:
        """The file's content; to be called once, before the next picture comes. Raises UnreadableError."""
        try:
            if self._length > MAX_BYTES:
                raise UnreadableError(f"has {self._length} bytes, more than {MAX_BYTES}")
            data = os.pread(self._file.fileno(), self._length, self._offset)
            if len(data) != self._length:
                raise UnreadableError("shorter than when it was indexed")
            return data
        finally:
            self.close()

    def ask_for(self) -> None:
        """Have the system read what will be wanted, where it takes such hints."""
        if 0 < self._length <= MAX_BYTES and hasattr(os, "posix_fadvise"):  # 0: to the end of the file
            os.posix_fadvise(self._file.fileno(), self._offset, self._length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Give up a file of its own; archives stay open for other pictures."""
        if not self._is_archive:
            self._file.close()


def fetch(plan: Plan, rows: NDArray[np.void]) -> Iterator[Wanted]:
    """Picture after picture of a plan's table. The system begins to read each one AHEAD pictures before:
    they stand in a random order, which it could not guess, and every one would be waited for.

    Raises:
        OSError: the source is gone.
    """
    asked: deque[Wanted] = deque()
    with ExitStack() as stack:
        archives = [stack.enter_context(FileIO(Path(plan.source, name))) for name in plan.archives]
        try:
            for raw_name, number, offset, length, _ in rows.tolist():
                name = os.fsdecode(raw_name)
                file = archives[number] if number >= 0 else FileIO(Path(plan.source, name))
                asked.append(Wanted(name, file, offset, length, number >= 0))
                asked[-1].ask_for()
                if len(asked) > AHEAD:
                    yield asked.popleft()
            while asked:
                yield asked.popleft()
        finally:
            for wanted in asked:
                wanted.close()
