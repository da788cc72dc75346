"""The images of a source as tables: one row an image, with its place and its label."""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from preprocess.containers.entries import Entry
from preprocess.shared.image_files import hidden_part, is_image_name, known_unreadable, unreadable_format

WNID = re.compile(r"n\d{8}")  # the name of a class of ImageNet
EXAMPLES = 5  # names that are kept for each reason
NUMBER = re.compile("0|[1-9][0-9]*")  # without leading zeros


class Row(NamedTuple):
    """The place and the label of an image."""

    name: str  # path from the source's root, or name in the archive
    file: int  # index of the archive, -1: the image is a file of its own
    offset: int  # of its first byte in that file
    length: int  # in bytes
    label: int
    group: int = -1  # the images of a group, 0 and above, are read together; -1: read singly


@dataclass(slots=True)
class LeftAside:
    """The entries that are no images: hidden ones are counted, the others listed."""

    ignored: dict[str, None] = field(default_factory=dict)  # with reasons, in order, each once
    hidden: set[str] = field(default_factory=set)  # each hidden folder counts once

    def ignore(self, name: str, reason: str) -> None:
        """List an entry."""
        self.ignored[f"{name} ({reason})"] = None

    def is_image(self, entry: Entry) -> bool:
        """Whether an entry is an image; if not, it is left aside."""
        if hidden := hidden_part(entry.name):
            self.hidden.add(hidden)
        elif entry.strange:
            self.ignore(entry.name, entry.strange)
        elif not entry.name.endswith("/"):
            if is_image_name(entry.name):
                return True
            format = known_unreadable(entry.name)
            self.ignore(entry.name, unreadable_format(format) if format else "not named as an image")
        return False


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
    hidden: int = 0  # hidden files and folders, which are left aside
    notes: tuple[str, ...] = ()  # what else was decided, for the summary


class Listed(TypedDict):
    """The entries that were ignored for one reason."""

    count: int
    examples: list[str]


class Aside(TypedDict):
    """What was left aside, as the store keeps it."""

    hidden: int
    reasons: dict[str, Listed]


def reason_of(ignored: str) -> tuple[str, str]:
    """The name and the reason of an entry of `Source.ignored`."""
    name, _, reason = ignored.rpartition(" (")
    return name, reason.removesuffix(")")


def aside_of(source: "Source") -> Aside:
    """What was left aside of a source, with a few examples of each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in map(reason_of, source.ignored):
        names.setdefault(reason, []).append(name)
    reasons: dict[str, Listed] = {
        reason: {"count": len(found), "examples": found[:EXAMPLES]} for reason, found in names.items()
    }
    return {"hidden": source.hidden, "reasons": reasons}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way in which image sets are handed out."""

    name: str  # in words, for messages
    marks: Callable[[Path], list[str]]  # files or folders at this place that identify the layout; [] for none
    read: Callable[[Path, Path | None], Source]  # from this place, with the folder of a cache
    before: tuple[str, ...] = ()  # names of layouts that are passed over where this one is found too


def table(rows: Iterable[Row]) -> NDArray[np.void]:
    """A structured array with the fields of Row, sorted by name (bytes, file system encoding).

    `file`, `offset` and `length` say where the image is, in the way of the archive's kind.
    ImageNet's 1.3 million rows take about 100 MB; a worker maps the few that it needs.
    """
    encoded = sorted((os.fsencode(row.name), *row[1:]) for row in rows)
    width = max((len(row[0]) for row in encoded), default=1)
    fields = [("name", f"S{width}"), ("file", "<i4"), ("offset", "<i8"), ("length", "<i8")]
    fields += [("label", "<i2"), ("group", "<i4")]
    return np.array(encoded, dtype=fields)


def in_class_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names of classes in the order of their labels: sorted, as numbers where all are whole numbers."""
    names = list(names)
    numbers = all(map(NUMBER.fullmatch, names))
    return tuple(sorted(names, key=int) if numbers else sorted(names))
