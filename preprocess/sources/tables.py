"""The images of a source as tables: one row an image, with its place and its label."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".jpeg", ".jpg", ".png")


class Row(NamedTuple):
    """The place and the label of an image."""

    name: str  # path from the source's root, or name in the archive
    file: int  # index of the archive, -1: the image is a file of its own
    offset: int  # of its first byte in that file
    length: int  # in bytes
    label: int


class Entry(NamedTuple):
    """A file in a folder, or a member of an archive."""

    name: str
    offset: int
    length: int
    strange: str = ""  # why it cannot be an image, such as "a link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The images that were found. `train` and `val` are sorted by name; `val` may be empty."""

    kind: str  # the layout, in words
    root: Path  # folder from which the names of archives and image files start
    archives: tuple[str, ...]
    classes: tuple[str, ...]
    class_names: tuple[str, ...] | None  # in words, where the source has them
    train: NDArray[np.void]  # as `table` makes it
    val: NDArray[np.void]
    ignored: tuple[str, ...] = ()  # entries that are no images of a class, with reasons


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image. Its content is looked at later."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def image_files(root: Path, folder: Path, ignored: list[str]) -> Iterator[Entry]:
    """Yield the image files in a folder, named from `root` on; add its other files to `ignored`."""
    prefix = folder.relative_to(root).as_posix()
    with os.scandir(folder) as found:
        for entry in found:
            name = f"{prefix}/{entry.name}"
            if entry.is_dir():
                continue
            if not is_image_name(entry.name):
                ignored.append(f"{name} (not named as an image)")
            elif not entry.is_file():
                ignored.append(f"{name} (not a file)")
            else:
                yield Entry(name, 0, entry.stat().st_size)


def table(rows: Iterable[Row]) -> NDArray[np.void]:
    """A structured array with the fields of Row, sorted by name (bytes, file system encoding).

    ImageNet's 1.3 million rows take about 100 MB; a worker maps the few that it needs.
    """
    encoded = sorted((os.fsencode(row.name), *row[1:]) for row in rows)
    width = max((len(row[0]) for row in encoded), default=1)
    fields = [("name", f"S{width}"), ("file", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i2")]
    return np.array(encoded, dtype=fields)
