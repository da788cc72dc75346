"""Parquet files, as Hugging Face hands out ImageNet and other sets of images.

Recognised by files named *.parquet in a folder or in its folder data/. One such file is a source too.

    imagenet-1k/data/train-00000-of-00294.parquet
    imagenet-1k/data/validation-00000-of-00014.parquet
    imagenet-1k/data/test-00000-of-00028.parquet

The first word of a file's name is its part: train, validation, or test, which is not used. Where no file is
named train, those without a part are for training. A row holds an image, with its path, and a label: the
name of a class, or a number. The classes of numbers are the first of these that fits:

- the wnids in the paths (n01440764_10026_n01440764.JPEG), where each number has a wnid of its own;
- the names of the classes in the metadata of the files;
- the numbers.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from preprocess.containers.parquet import MAGIC, NO_LABEL, columns, open_file, rows
from preprocess.errors import UserError
from preprocess.shared import progress
from preprocess.shared.image_files import hidden_part, walk
from preprocess.sources.cache import cached_members
from preprocess.sources.class_folders import MAX_CLASSES, TEST, part_named
from preprocess.sources.tables import WNID, Layout, LeftAside, Row, Source, table

SUFFIX = ".parquet"
FOLDER = "data/"
NUMBERED = re.compile(r"(.*)-\d{5}-of-(\d{5})\.parquet")  # a file of so many


@dataclass(slots=True)
class Labels:
    """The labels of the rows that were read, in the order in which they appeared."""

    place: dict[str, int] = field(default_factory=dict)  # in that order, by label
    wnids: list[dict[str, str]] = field(default_factory=list)  # of each label; each with an image that has it

    def add(self, label: str, name: str) -> int:
        """The place of the label of this image. Raises UserError for one label too many."""
        place = self.place.setdefault(label, len(self.place))
        if place == MAX_CLASSES:
            raise UserError(f"{name} has one label more than {MAX_CLASSES}: labels are int16")
        if place == len(self.wnids):
            self.wnids.append({})
        self.wnids[place].setdefault(_wnid(name), name)
        return place

    def one_to_one(self) -> list[str] | None:
        """The wnid of each label; None if a label has several wnids or none, or two labels have the same."""
        wnids = [wnid for of_label in self.wnids for wnid in of_label]
        one_each = len(wnids) == len(self.wnids) == len(set(wnids))
        return wnids if one_each and "" not in wnids else None


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a source."""

    names: tuple[str, ...]  # sorted
    of_label: list[str]  # in the order of `Labels`
    words: dict[str, str] | None = None  # by class


def parquet_files(path: Path, cache: Path | None = None) -> Source:
    """Read the labels in the Parquet files in a folder, or in one file.

    Args:
        path: the folder or the file.
        cache: folder for the rows' paths and labels, which take long to read.

    Raises:
        UserError: a file cannot be read, there is no image for training, or labels contradict each other.
        OSError: no access.
    """
    root = path if path.is_dir() else path.parent
    aside, labels = LeftAside(), Labels()
    parts = _parts(path, aside)
    archives = tuple(sorted(parts))
    numbers, words = _kind_of_labels(root, archives)
    found = _read_rows(root, parts, cache, labels, aside)
    if not any(found.values()):
        raise UserError(f"{path} holds no image with a label: name another place with --config imagenet=PATH")
    classes = _classes_of_numbers(path, labels, words) if numbers else _classes_by_name(list(labels.place))
    index = {name: number for number, name in enumerate(classes.names)}
    label = np.array([index[name] for name in classes.of_label])
    tables = {part: table(of_part) for part, of_part in found.items()}
    for of_part in tables.values():
        of_part["label"] = label[of_part["label"]]
    return Source(
        kind="Parquet files",
        root=root,
        archives=archives,
        classes=classes.names,
        class_names=tuple(classes.words[name] for name in classes.names) if classes.words else None,
        train=tables["train"],
        val=tables["val"],
        ignored=tuple(aside.ignored),
        hidden=len(aside.hidden),
        notes=tuple(_incomplete(archives)),
    )


def _parts(path: Path, aside: LeftAside) -> dict[str, str]:
    """The part of each file that is used, train or val. Raises OSError."""
    if path.is_file():
        return {path.name: "train"}
    words: dict[str, str] = {}  # the first of each file's name
    for name, _, strange in walk(path, lambda name: name == FOLDER):
        if hidden := hidden_part(name):
            aside.hidden.add(hidden)
        elif not strange and _is_named_parquet(name):
            words[name] = re.split("[^a-z]", name.rpartition("/")[2].lower(), maxsplit=1)[0]
        elif name != FOLDER:
            aside.ignore(name, strange or "not a Parquet file")
    unnamed = "" if "train" in map(part_named, words.values()) else "train"
    used = {}
    for name, word in words.items():
        if word in TEST:
            aside.ignore(name, "a test part is not used")
        elif part := part_named(word) or unnamed:
            used[name] = part
        else:
            aside.ignore(name, "named neither train nor validation")
    return used


def _kind_of_labels(root: Path, archives: Iterable[str]) -> tuple[bool, tuple[str, ...]]:
    """Whether labels are numbers, and the names of the classes in the files' metadata, by label.

    Raises:
        UserError: as `open_file` and `columns`, or two files differ.
    """
    kinds: dict[bool, str] = {}
    names: dict[tuple[str, ...], str] = {}
    for name in archives:
        with open_file(root / name) as file:
            found = columns(root / name, file)
        kinds.setdefault(found.numbers, name)
        if found.names:
            names.setdefault(found.names, name)
    for differing in (kinds, names):
        if len(differing) > 1:
            one, other, *_ = differing.values()
            raise UserError(
                f"{root} holds {one} and {other}, whose labels are of other kinds: get both again"
            )
    return True in kinds, next(iter(names), ())


def _read_rows(
    root: Path, parts: dict[str, str], cache: Path | None, labels: Labels, aside: LeftAside
) -> dict[str, list[Row]]:
    """The rows of each part; a row's `label` is its place in `labels`. Raises UserError as `rows`."""
    found: dict[str, list[Row]] = {"train": [], "val": []}
    groups = 0  # in the files before
    with closing(progress.counter(" files", len(parts), "labels")) as bar:
        for file, (name, part) in enumerate(sorted(parts.items())):
            entries = cached_members(root / name, cache, rows, shown=False)
            without = 0
            for row, entry in enumerate(entries):
                base, _, label = entry.name.partition("/")
                if label == NO_LABEL:
                    without += 1
                    continue
                image = f"{name}/{row:06d}" + (f"/{base}" if base else "")
                place = labels.add(label, image)
                found[part].append(Row(image, file, row, entry.length, place, groups + entry.offset))
            if without:
                aside.ignore(f"{without} of {len(entries)} rows of {name}", "without a label")
            groups += entries[-1].offset + 1 if entries else 0
            bar.update(1)
    return found


def _classes_by_name(names: list[str]) -> Classes:
    """The classes with these names; names that are whole numbers are sorted as numbers."""
    numbers = all(map(str.isdecimal, names))
    return Classes(tuple(sorted(set(names), key=int if numbers else str)), names)


def _classes_of_numbers(path: Path, labels: Labels, words: tuple[str, ...]) -> Classes:
    """The classes where labels are numbers; `words`: the names in the metadata, by label, () for none.

    Raises:
        UserError: a label is outside of `words`, or labels contradict the wnids in the images' names.
    """
    if len(words) > MAX_CLASSES:
        raise UserError(
            f"{path}: the metadata name {len(words)} classes, more than {MAX_CLASSES}: labels are int16"
        )
    numbers = [int(label) for label in labels.place]
    images = [next(iter(wnids.values())) for wnids in labels.wnids]
    for number, image in zip(numbers, images, strict=True):
        if number < 0 or (words and number >= len(words)):
            known = f"; the metadata name {len(words)} classes" if words else ""
            raise UserError(f"{path}: {image} has the label {number}, which is no class{known}: get it again")
    _refuse_second_labels(path, labels)
    if words and all(map(WNID.fullmatch, words)):
        for number, wnids in zip(numbers, labels.wnids, strict=True):
            for wnid in wnids.keys() - {words[number], ""}:
                raise UserError(
                    f"{path}: {wnids[wnid]} has the label {number}, which is {words[number]} in the "
                    "metadata: the image's name and its label contradict each other, get the files again"
                )
    elif of_label := labels.one_to_one():
        pairs = sorted(zip(numbers, of_label, images, strict=True))
        for (number, wnid, image), (other, later, other_image) in pairwise(pairs):
            if wnid > later:
                raise UserError(
                    f"{path}: {image} has the label {number} and {other_image} the label {other}, but in "
                    f"sorted order, which numbers the classes, {later} comes before {wnid}: the names and "
                    "labels of images contradict each other, get the files again"
                )
        of_class = {wnid: words[number] for number, wnid, _ in pairs} if words else None
        return replace(_classes_by_name(of_label), words=of_class)
    if words and len(set(words)) == len(words):
        return replace(_classes_by_name(list(words)), of_label=[words[number] for number in numbers])
    of_class = {str(number): words[number] for number in numbers} if words else None
    return replace(_classes_by_name(list(map(str, numbers))), words=of_class)


def _refuse_second_labels(path: Path, labels: Labels) -> None:
    """Raise UserError if images of one wnid have two labels. A coarser label may have several wnids."""
    first: dict[str, tuple[str, str]] = {}
    for label, wnids in zip(labels.place, labels.wnids, strict=True):
        for wnid, image in wnids.items():
            other, other_image = first.setdefault(wnid, (label, image))
            if wnid and other != label:
                raise UserError(
                    f"{path}: {other_image} has the label {other} and {image} the label {label}, and both "
                    f"are named {wnid}: the names and labels of images contradict each other, get the files "
                    "again"
                )


def _wnid(name: str) -> str:
    """The wnid at the end or at the beginning of a file's name, before its suffix; "" for none."""
    base = name.rpartition("/")[2]
    words = (base.rpartition(".")[0] or base).split("_")
    return next((word for word in (words[-1], words[0]) if WNID.fullmatch(word)), "")


def _incomplete(archives: Iterable[str]) -> Iterator[str]:
    """Describe each part of which files are missing, by the number in the files' names."""
    there = Counter(match.groups() for name in archives if (match := NUMBERED.fullmatch(name)))
    for (part, total), count in there.items():
        if count < int(total):
            yield f"{int(total) - count} of the {int(total)} files {part}-* are not there"


def _is_named_parquet(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def _marks(path: Path) -> list[str]:
    if path.is_file():
        with path.open("rb") as file:
            return [path.name] if _is_named_parquet(path.name) or file.read(len(MAGIC)) == MAGIC else []
    files = (entry for folder in (path, path / FOLDER) if folder.is_dir() for entry in folder.iterdir())
    return sorted(entry.name for entry in files if _is_named_parquet(entry.name))[:1]


LAYOUT = Layout(name="Parquet files", marks=_marks, read=parquet_files)
