"""Reads the bytes of images in place: from archives of any kind, or from files of their own."""

import os
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from preprocess.containers import parquet
from preprocess.containers.files import OF_THE_FILE, Plain, image_file
from preprocess.containers.gzip import Gzip, is_gzip
from preprocess.containers.parquet import Parquet
from preprocess.containers.zip import Zip, is_zip
from preprocess.errors import UserError
from preprocess.plan import Plan, archives_folder

AHEAD = 16  # images prefetched, 2 MB; at 400 images a second the disk has 40 ms for each
OPEN = 4 * AHEAD  # archives held open; more than are requested at once


class Requested(Protocol):
    """An image that the system was asked to prefetch."""

    @property
    def name(self) -> str:
        """As in the table of images."""

    def prefetch(self) -> None:
        """Have it read ahead, where that is possible."""

    def read(self) -> bytes:
        """The image file's bytes. Call it once, before the next image. Raises UnreadableError."""

    def close(self) -> None:
        """Give up what the image alone holds."""


class Container(Protocol):
    """An archive that is open for reading."""

    def request(self, name: str, offset: int, length: int) -> Requested:
        """The image with this row in the table; the kind of archive says what offset and length mean."""

    def close(self) -> None:
        """Close the archive."""


class Archives:
    """Archives by their number in the plan, opened when they are needed; those used last stay open."""

    def __init__(self, plan: Plan, indices: Path) -> None:
        self._paths = [Path(plan.source, name) for name in plan.archives]
        self._indices = indices
        self._open: OrderedDict[int, Container] = OrderedDict()

    def __getitem__(self, number: int) -> Container:
        """Raises UserError: the archive is gone; OSError: no file can be opened."""
        if number not in self._open:
            if len(self._open) == OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[number] = open_container(self._paths[number], self._indices)
        self._open.move_to_end(number)
        return self._open[number]

    def close(self) -> None:
        """Close all archives."""
        while self._open:
            self._open.popitem()[1].close()


def open_container(path: Path, indices: Path | None) -> Container:
    """Open an archive; its first bytes say of which kind it is. Raises as `Archives` does.

    Args:
        path: the archive.
        indices: the folder with the indices that stage 1 made of archives which need one; None: each is
            made where it is needed.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(parquet.MAGIC))
        if start == parquet.MAGIC:
            return Parquet(path)
        if is_gzip(path):
            return Gzip(path, indices)
        return Zip(path) if is_zip(path) else Plain(path)
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        raise UserError(
            f"the archive {path} cannot be opened ({error.strerror}): make it readable, and run again"
        ) from error


def fetch(store: Path, plan: Plan, rows: NDArray[np.void]) -> Iterator[Requested]:
    """Yield the images of these rows of a table, in order.

    Each image is prefetched AHEAD images before: the order is random, so the system cannot guess it.

    Args:
        store: the store that is made of them.
        plan: its plan.
        rows: of one of its tables.

    Raises:
        UserError: the source is gone.
        OSError: no file can be opened.
    """
    requested: deque[Requested] = deque()
    archives = Archives(plan, archives_folder(store))
    try:
        for raw_name, number, offset, length in rows[["name", "file", "offset", "length"]].tolist():
            name = os.fsdecode(raw_name)
            image: Requested = (
                archives[number].request(name, offset, length)
                if number >= 0
                else image_file(plan.source, name, length)
            )
            requested.append(image)
            image.prefetch()
            if len(requested) > AHEAD:
                yield requested.popleft()
        while requested:
            yield requested.popleft()
    finally:
        for image in requested:
            image.close()
        archives.close()
