"""Class folders, on disk or in an archive: the folder of an image is its class.

Recognised by folders with the names of parts. An image may lie deeper in the folder of its class.

    train/cat/1.jpg     also Train/, training/
    train/cat/2021/2.jpg
    val/cat/3.jpg       also valid/, validation/

A test part is taken for validation where there is no other and it has the classes of the training part.

Where no folder has the name of a part, two folders or more that hold images are the classes:

    photos/cat/1.jpg
    photos/dog/2.jpg
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from preprocess.containers.entries import WRONG_NAMES, Entry
from preprocess.errors import UserError
from preprocess.shared.image_files import hidden_part, is_image_name, parts_of, walk
from preprocess.sources.tables import Layout, LeftAside, Row, Source, in_class_order, table

MAX_CLASSES = 2**15  # labels are int16
PARTS = {  # by the folder's name in lower case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
TEST = {"test", "testing"}
SHOWN = 3  # classes or entries that a sentence names


class Shape(NamedTuple):
    """Which of the folders above an image is its part, and which its class."""

    depth: int = 0  # folders above train/ and val/, or above the classes
    top: tuple[str, ...] | None = None  # where there are no parts: the folders above the classes

    @property
    def above_class(self) -> int:
        """The number of folders above the class."""
        return self.depth + (self.top is None)

    def part(self, path: list[str]) -> str:
        """The part of what lies at a path: train, val or test; "" for others."""
        if self.top is not None:
            return "train" if tuple(path[: self.depth]) == self.top else ""
        folder = path[self.depth] if len(path) > self.depth else ""
        return "test" if folder.lower() in TEST else part_named(folder)


@dataclass(slots=True)
class Sorted:
    """Images by part and class; the classes without an image are here too."""

    where: Path  # the source, for messages
    shape: Shape
    file: int  # index of the archive, -1: none
    aside: LeftAside = field(default_factory=LeftAside)
    rows: dict[str, dict[str, list[Row]]] = field(default_factory=lambda: {"train": {}, "val": {}})
    folders: dict[str, set[str]] = field(
        default_factory=lambda: {"train": set(), "val": set()}
    )  # of the parts
    spelled: dict[tuple[str, str], str] = field(default_factory=dict)  # folder by part and class
    notes: list[str] = field(default_factory=list)

    def add(self, entry: Entry, path: list[str], part: str) -> None:
        """Sort an entry, whose name has these parts, into a part of the set.

        Raises:
            UserError: an image has no class, or a class two folders.
        """
        above = self.shape.above_class
        below = len(path) - above + entry.name.endswith("/")  # parts of the name after that of the part
        label = ""
        if entry.strange not in WRONG_NAMES and below > 0:
            if not part:
                self.aside.ignore(f"{'/'.join(path[: max(above, 1)])}/", self._reason())
                return
            self.folders[part].add("/".join(path[:above]))
            if below > 1:
                label = self._label(path, part)
        if not self.aside.is_image(entry):
            return
        if not part:
            self.aside.ignore(entry.name, "not in train/<class>/ or val/<class>/")
        elif label:
            self.rows[part][label].append(Row(entry.name, self.file, entry.offset, entry.length, 0))
        elif self.shape.top is not None:
            self.aside.ignore(entry.name, "in no class folder")
        else:
            raise UserError(
                f"{self.where} holds {entry.name}, which is in no class folder: sort {path[above - 1]}/ into "
                f"{path[above - 1]}/<class>/; or, for a validation part, give the folder that holds "
                "LOC_val_solution.csv or val.txt"
            )

    def _reason(self) -> str:
        return "neither train/ nor val/" if self.shape.top is None else "not next to the classes"

    def _label(self, path: list[str], part: str) -> str:
        """The class of a path; made known if it is new."""
        raw = path[self.shape.above_class]
        label = normalize("NFC", raw)
        self.rows[part].setdefault(label, [])
        if (other := self.spelled.setdefault((part, label), raw)) != raw:
            raise UserError(
                f"{self.where} has two folders {self._inside(path)}whose names look the same, {other!a} and "
                f"{raw!a}, with accents stored in two ways: put their images into one of them"
            )
        return label

    def _inside(self, path: list[str]) -> str:
        above = self.shape.above_class
        return f"in {path[above - 1]}/ " if above else ""


def class_folders(root: Path) -> Source:
    """Read the folders below `root`. Raises UserError as `by_folder`, OSError where one cannot be listed."""
    shape = Shape() if part_folders(root) else Shape(top=())
    return by_folder("class folders", root, (), files_on_disk(root, flat=shape.top is not None), shape)


def part_named(name: str) -> str:
    """The part of the images, train or val, that a folder's name stands for; "" for others."""
    return PARTS.get(name.strip("/").lower(), "")


def part_folders(root: Path, part: str = "") -> list[str]:
    """The folders at a place that have the name of a part, or of this part."""
    there = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
    return [
        name
        for name in there
        if part_named(name) and part in ("", part_named(name)) and (root / name).is_dir()
    ]


def files_on_disk(root: Path, below: str = "", flat: bool = False) -> Iterator[Entry]:
    """Yield what lies in root/below, and all that lies below its parts, or with `flat` all. Raises OSError.

    A test part is entered where it may be used for want of a val part.
    """
    with_test = not part_folders(root / below, "val")

    def enter(name: str) -> bool:
        folder = name.strip("/").lower()
        return flat or "/" in name[:-1] or bool(part_named(name)) or (with_test and folder in TEST)

    for name, length, strange in walk(root / below, enter):
        yield Entry(below + name, 0, length, strange)


def shape_of(entries: Iterable[Entry]) -> Shape:
    """Find the parts of an archive, at the least depth where several fit. Without parts, find its classes."""
    found: dict[str, None] = {}  # folders that hold images
    for entry in entries:
        if not entry.strange and is_image_name(entry.name):
            folder, _, name = entry.name.rpartition("/")
            if not name.startswith("."):
                found[folder] = None
    folders = {tuple(parts_of(folder)) for folder in found if not hidden_part(folder)}
    exact: set[int] = set()
    deeper: set[int] = set()
    for path in folders:
        for depth, folder in enumerate(path):
            if part_named(folder):
                (exact if depth == len(path) - 2 else deeper).add(depth)
    if exact or deeper:
        return Shape(min(exact or deeper))
    first, last = min(folders, default=()), max(folders, default=())
    top = [
        above for above, other in takewhile(lambda both: both[0] == both[1], zip(first, last, strict=False))
    ]
    if sum(len(path) == len(top) + 1 for path in folders) > 1:
        return Shape(len(top), tuple(top))
    return Shape()


def sort_by_folder(where: Path, entries: Iterable[Entry], shape: Shape, file: int) -> Sorted:
    """Sort entries into parts and classes by the folders in their names: .../train/<class>/.../<image>.

    The names of classes are compared in Unicode's composed form (NFC): macOS decomposes accents.

    Args:
        where: the source, for messages.
        entries: of a folder or an archive.
        shape: which of the folders are parts and classes.
        file: index of the archive, -1: none.

    Raises:
        UserError: an image has no class folder, a class has no image, or a part or class has two folders.
    """
    found = Sorted(where, shape, file)
    test: list[Entry] = []
    for entry in entries:
        if hidden := hidden_part(entry.name):
            found.aside.hidden.add(hidden)
            entry = Entry(hidden[: hidden.rfind("/") + 1] or "./", 0, 0)  # the folder that holds it
        path = parts_of(entry.name)
        part = shape.part(path)
        if part == "test" and len(path) + entry.name.endswith("/") > shape.above_class:
            test.append(entry)
        else:
            found.add(entry, path, part)
    _take_test(found, test)
    _refuse_incomplete(found)
    for folder in found.folders["val"]:
        if folder.rpartition("/")[2] != "val":
            found.notes.append(f"{folder}/ is the validation part")
    return found


def _take_test(found: Sorted, entries: list[Entry]) -> None:
    """Take the test part for validation where there is no other and it has the classes of train/.

    Else it is listed.
    """
    above = found.shape.above_class
    paths = [parts_of(entry.name) for entry in entries if not entry.strange and is_image_name(entry.name)]
    classes = {normalize("NFC", path[above]) for path in paths if len(path) > above + 1}
    flat = any(len(path) == above + 1 for path in paths)
    used = not flat and not found.folders["val"] and classes == found.rows["train"].keys() and bool(classes)
    for entry in entries:
        if used:
            found.add(entry, parts_of(entry.name), "val")
        else:
            found.aside.ignore(f"{'/'.join(parts_of(entry.name)[:above])}/", "a test part is not used")


def _refuse_incomplete(found: Sorted) -> None:
    """Raise UserError for a part with two folders, and for parts and classes without an image."""
    if not found.rows["train"] and (found.folders["train"] or not found.rows["val"]):
        ignored = first_of(list(found.aside.ignored), SHOWN)
        raise UserError(
            f"{found.where} holds no image under train/<class>/{ignored and ', but '}{ignored}: "
            "name another place, imagenet=PATH"
        )
    empty: list[str] = []
    for part, folders in found.folders.items():
        if len(folders) > 1:
            both = " and ".join(f"{folder}/" for folder in sorted(folders))
            raise UserError(
                f"{found.where} has {both}, which are both a name of {part}/: leave only one of them there"
            )
        for folder in folders:
            empty += [
                f"{folder}/{label}/".lstrip("/")
                for label, rows in sorted(found.rows[part].items())
                if not rows
            ]
            if not found.rows[part]:
                empty.append(f"{folder}/")
    if empty:
        ignored = first_of([entry for entry in found.aside.ignored if entry.startswith(tuple(empty))], SHOWN)
        remedy = (
            "put images there, or remove these folders"
            if found.shape.top is None
            else "without train/ every folder is a class, so name a place with folders of images alone"
        )
        raise UserError(
            f"{found.where} has no image in {first_of(empty, 5)}: {remedy}"
            f"{ignored and '; they hold '}{ignored}"
        )


def first_of(names: Sequence[str], count: int) -> str:
    """The first names of a list, for a sentence."""
    return ", ".join(names[:count]) + (", ..." if names[count:] else "")


def by_folder(
    kind: str, root: Path, archives: tuple[str, ...], entries: Iterable[Entry], shape: Shape
) -> Source:
    """The source whose classes are the folders in the entries' names.

    Where there is only a val part, `train` is empty. Where there are no parts, `val` is.

    Raises:
        UserError: as `sort_by_folder`, there is no image, or val/ has a class that train/ lacks.
    """
    where = root / archives[0] if archives else root
    found = sort_by_folder(where, entries, shape, 0 if archives else -1)
    classes = in_class_order(found.rows["train"] or found.rows["val"])
    if len(classes) > MAX_CLASSES:
        raise UserError(f"{where} holds {len(classes)} classes, more than {MAX_CLASSES}: labels are int16")
    if unknown := sorted(found.rows["val"].keys() - set(classes)):
        raise UserError(
            f"{where} has val/{unknown[0]} but no train/{unknown[0]}: both parts need the same classes"
        )
    if shape.top is not None:
        first = first_of([f"{label}/" for label in classes], SHOWN)
        found.notes.append(f"there is no train/, so each folder is a class: {first}")
    tables = {
        part: table(
            row._replace(label=index) for index, label in enumerate(classes) for row in rows.get(label, ())
        )
        for part, rows in found.rows.items()
    }
    return Source(
        kind=kind,
        root=root,
        archives=archives,
        classes=classes,
        class_names=None,
        ignored=tuple(found.aside.ignored),
        hidden=len(found.aside.hidden),
        notes=tuple(found.notes),
        train=tables["train"],
        val=tables["val"],
    )


def folders_with_images(root: Path) -> list[str]:
    """The folders at a place that hold images directly; none where a folder has the name of a part.

    Raises:
        OSError: one cannot be listed.
    """
    folders = sorted(path for path in root.iterdir() if not hidden_part(path.name) and path.is_dir())
    if any(part_named(folder.name) or folder.name.lower() in TEST for folder in folders):
        return []
    return [
        folder.name
        for folder in folders
        if any(is_image_name(path.name) and not hidden_part(path.name) for path in folder.iterdir())
    ]


def _without_parts(path: Path) -> list[str]:
    found = folders_with_images(path) if path.is_dir() else []
    return found if len(found) > 1 else []


LAYOUT = Layout(name="class folders", marks=part_folders, read=lambda path, _: class_folders(path))
WITHOUT_PARTS = Layout(  # tried where no other layout is found
    name="class folders without train/", marks=_without_parts, read=lambda path, _: class_folders(path)
)
