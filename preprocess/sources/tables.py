"""What was found in a source: tables of pictures, each with where it lies and what it shows."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError

SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_CLASSES = 2**15  # labels are int16


class Picture(NamedTuple):
    """Where a picture lies, and what it shows."""

    name: str  # for messages; where pictures are files also the path
    file: int  # number of the archive it lies in, -1: a file of its own
    offset: int  # of its first byte in that file
    length: int  # in bytes
    label: int


class Entry(NamedTuple):
    """Something with a name in a folder or in an archive."""

    name: str
    offset: int
    length: int
    strange: str = ""  # why it can be no picture, such as "a link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was found. `train` and `val` are tables in the order of the names; `val` may be empty."""

    kind: str
    root: Path  # the folder that the names of archives and pictures start from
    archives: tuple[str, ...]
    classes: tuple[str, ...]
    class_names: tuple[str, ...] | None  # in words, where the source knows them
    train: NDArray[np.void]
    val: NDArray[np.void]
    ignored: tuple[str, ...] = ()  # entries that are not pictures in a class, with reasons


def is_picture(name: str) -> bool:
    """By its name alone; what is in it is seen when it is read."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def table(pictures: Iterable[Picture]) -> NDArray[np.void]:
    """Pictures as a structured array with Picture's fields, sorted by name (bytes, file system encoding).

    1.3 million rows take some 100 MB, and a worker maps the few that it needs.
    """
    rows = sorted((os.fsencode(picture.name), *picture[1:]) for picture in pictures)
    width = max((len(row[0]) for row in rows), default=1)
    fields = [("name", f"S{width}"), ("file", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i2")]
    return np.array(rows, dtype=fields)


def by_folder(kind: str, root: Path, archives: tuple[str, ...], entries: Iterable[Entry]) -> Source:
    """Sort entries by the folders in their names: .../train/<class>/<picture>.

    Raises:
        UserError: no picture, pictures without a class, or two parts that do not fit together.
    """
    where = root / archives[0] if archives else root
    file = 0 if archives else -1
    parts: dict[str, dict[str, list[Picture]]] = {"train": {}, "val": {}}
    ignored = []
    for entry in entries:
        part, label, name = ("", "", *PurePosixPath(entry.name).parts)[-3:]
        if entry.strange or not is_picture(name):
            ignored.append(f"{entry.name} ({entry.strange or 'not named as a picture'})")
        elif part in parts and label != "..":
            picture = Picture(entry.name, file, entry.offset, entry.length, 0)
            parts[part].setdefault(label, []).append(picture)
        elif label in parts:
            raise UserError(
                f"{where} holds {entry.name}, which lies in no class folder: sort {label}/ into "
                f"{label}/<class>/; if this is Kaggle's tree, give the folder that holds LOC_val_solution.csv"
            )
        else:
            ignored.append(f"{entry.name} (not in train/<class>/ or val/<class>/)")
    classes = sorted(parts["train"])
    if not classes:
        raise UserError(f"{where} holds no picture under train/<class>/: name another place, imagenet=PATH")
    if len(classes) > MAX_CLASSES:
        raise UserError(f"{where} holds {len(classes)} classes, more than {MAX_CLASSES}: labels are int16")
    if unknown := sorted(parts["val"].keys() - parts["train"].keys()):
        raise UserError(
            f"{where} has val/{unknown[0]} but no train/{unknown[0]}: both parts need the same classes"
        )
    tables = {
        part: table(
            picture._replace(label=index)
            for index, label in enumerate(classes)
            for picture in folders.get(label, ())
        )
        for part, folders in parts.items()
    }
    return Source(
        kind=kind,
        root=root,
        archives=archives,
        classes=tuple(classes),
        class_names=None,
        ignored=tuple(ignored),
        **tables,
    )
