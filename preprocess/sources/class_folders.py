"""Class folders, on disk or in a tar: train/<class>/<image>, and val/<class>/<image> if there is a val/."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from preprocess.containers.entries import Entry
from preprocess.containers.tar import LINK, members
from preprocess.errors import UserError
from preprocess.shared.image_files import hidden_part, is_image_name, parts_of, walk
from preprocess.sources.cache import cached_members
from preprocess.sources.tables import Layout, LeftAside, Row, Source, table

MAX_CLASSES = 2**15  # labels are int16
PARTS = {  # by the folder's name in lower case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
TEST = {"test", "testing"}


@dataclass(slots=True)
class Sorted:
    """Images by part and class; the classes without an image are here too."""

    where: Path  # the source, for messages
    aside: LeftAside
    rows: dict[str, dict[str, list[Row]]] = field(default_factory=lambda: {"train": {}, "val": {}})
    folders: dict[str, set[str]] = field(
        default_factory=lambda: {"train": set(), "val": set()}
    )  # of the parts
    deeper: dict[tuple[str, str], str] = field(default_factory=dict)  # by part and class: an image too deep


def class_folders(root: Path) -> Source:
    """Read the folders below `root`. Raises UserError as `by_folder`, OSError where one cannot be listed."""
    return by_folder("class folders", root, (), files_on_disk(root), 0)


def tar_of_class_folders(archive: Path, cache: Path | None = None) -> Source:
    """Read an uncompressed tar with class folders at any depth.

    Args:
        archive: the tar.
        cache: folder for the list of its members.

    Raises:
        UserError: as `members` and `by_folder`.
    """
    entries = cached_members(archive, cache, members)
    depth = depth_of_parts(entries)
    return by_folder("class folders in a tar", archive.parent, (archive.name,), entries, depth)


def part_named(name: str) -> str:
    """The part of the images, train or val, that a folder's name stands for; "" for others."""
    return PARTS.get(name.strip("/").lower(), "")


def files_on_disk(root: Path, below: str = "") -> Iterator[Entry]:
    """Yield what lies in root/below, and all that lies below its train/ and val/. Raises OSError."""
    for name, length, strange in walk(root / below, lambda name: "/" in name[:-1] or part_named(name)):
        yield Entry(below + name, 0, length, strange)


def depth_of_parts(entries: Iterable[Entry]) -> int:
    """The number of folders above train/ and val/ in an archive; the least one where several fit."""
    exact: set[int] = set()
    deeper: set[int] = set()
    for entry in entries:
        if not entry.strange and is_image_name(entry.name) and not hidden_part(entry.name):
            path = parts_of(entry.name)
            for depth, folder in enumerate(path[:-1]):
                if part_named(folder):
                    (exact if depth == len(path) - 3 else deeper).add(depth)
    return min(exact or deeper, default=0)


def sort_by_folder(where: Path, entries: Iterable[Entry], depth: int, file: int) -> Sorted:
    """Sort entries into parts and classes by the folders in their names: .../train/<class>/<image>.

    The names of classes are compared in Unicode's composed form (NFC): macOS decomposes accents.

    Args:
        where: the source, for messages.
        entries: of a folder or an archive.
        depth: the number of folders above train/ and val/.
        file: index of the archive, -1: none.

    Raises:
        UserError: an image has no class folder, a class has no image, or a part or class has two folders.
    """
    found = Sorted(where, LeftAside())
    spelled: dict[tuple[str, str], str] = {}
    for entry in entries:
        if hidden := hidden_part(entry.name):
            found.aside.hidden.add(hidden)
            entry = Entry(hidden[: hidden.rfind("/") + 1] or "./", 0, 0)  # the folder that holds it
        path = parts_of(entry.name)
        part = part_named(path[depth]) if len(path) > depth else ""
        below = len(path) - depth - 1 + entry.name.endswith("/")  # parts of the name after train/ or val/
        label = ""
        if entry.strange in ("", LINK) and below > 0:
            if not part:
                reason = (
                    "a test part is not used" if path[depth].lower() in TEST else "neither train/ nor val/"
                )
                found.aside.ignore(f"{'/'.join(path[: depth + 1])}/", reason)
                continue
            found.folders[part].add("/".join(path[: depth + 1]))
            if below > 1:
                label = normalize("NFC", path[depth + 1])
                found.rows[part].setdefault(label, [])
                raw = path[depth + 1]
                if (other := spelled.setdefault((part, label), raw)) != raw:
                    raise UserError(
                        f"{where} has two folders in {path[depth]}/ whose names look the same, {other!a} and "
                        f"{raw!a}, with accents stored in two ways: put their images into one of them"
                    )
        if not found.aside.is_image(entry):
            continue
        if not part:
            found.aside.ignore(entry.name, "not in train/<class>/ or val/<class>/")
        elif below == 1:
            raise UserError(
                f"{where} holds {entry.name}, which is in no class folder: sort {path[depth]}/ into "
                f"{path[depth]}/<class>/; if this is Kaggle's tree, give the folder that holds "
                "LOC_val_solution.csv"
            )
        elif below == 2:
            found.rows[part][label].append(Row(entry.name, file, entry.offset, entry.length, 0))
        else:
            found.deeper.setdefault((part, label), entry.name)
            found.aside.ignore(entry.name, f"lies deeper than {path[depth]}/<class>/")
    _refuse_incomplete(found)
    return found


def _refuse_incomplete(found: Sorted) -> None:
    """Raise UserError for a part with two folders, and for parts and classes without an image."""
    if not found.rows["train"]:
        raise UserError(
            f"{found.where} holds no image under train/<class>/: name another place, imagenet=PATH"
        )
    empty: list[str] = []
    deeper: list[str] = []
    for part, folders in found.folders.items():
        if len(folders) > 1:
            both = " and ".join(f"{folder}/" for folder in sorted(folders))
            raise UserError(
                f"{found.where} has {both}, which are both a name of {part}/: leave only one of them there"
            )
        for folder in folders:
            without = [label for label, rows in sorted(found.rows[part].items()) if not rows]
            empty += [f"{folder}/{label}/" for label in without]
            deeper += [found.deeper[part, label] for label in without if (part, label) in found.deeper]
            if not found.rows[part]:
                empty.append(f"{folder}/")
    if empty:
        raise UserError(
            f"{found.where} has no image in {', '.join(empty[:5])}{', ...' if empty[5:] else ''}: "
            + (
                f"move images that lie deeper, such as {deeper[0]}, up into the folder of their class"
                if deeper
                else "put images there, or remove these folders"
            )
        )


def by_folder(
    kind: str, root: Path, archives: tuple[str, ...], entries: Iterable[Entry], depth: int
) -> Source:
    """The source whose classes are the folders in the entries' names: .../train/<class>/<image>.

    Raises:
        UserError: as `sort_by_folder`, there is no image, or val/ has a class that train/ lacks.
    """
    where = root / archives[0] if archives else root
    found = sort_by_folder(where, entries, depth, 0 if archives else -1)
    classes = sorted(found.rows["train"])
    if len(classes) > MAX_CLASSES:
        raise UserError(f"{where} holds {len(classes)} classes, more than {MAX_CLASSES}: labels are int16")
    if unknown := sorted(found.rows["val"].keys() - found.rows["train"].keys()):
        raise UserError(
            f"{where} has val/{unknown[0]} but no train/{unknown[0]}: both parts need the same classes"
        )
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
        classes=tuple(classes),
        class_names=None,
        ignored=tuple(found.aside.ignored),
        hidden=len(found.aside.hidden),
        train=tables["train"],
        val=tables["val"],
    )


def _parts(path: Path) -> list[str]:
    there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    return [name for name in there if part_named(name) == "train" and (path / name).is_dir()]


LAYOUT = Layout(name="class folders", marks=_parts, read=lambda path, _: class_folders(path))
IN_A_TAR = Layout(  # the last of the layouts: every file that no other takes
    name="class folders in a tar",
    marks=lambda path: [path.name] if path.is_file() else [],
    read=tar_of_class_folders,
)
