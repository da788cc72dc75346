"""Class folders, on disk or in a tar: train/<class>/<image>, and val/<class>/<image> if there is a val/."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from preprocess.errors import UserError
from preprocess.sources.archives import members
from preprocess.sources.cache import cached_members
from preprocess.sources.tables import Entry, Row, Source, image_files, is_image_name, table

MAX_CLASSES = 2**15  # labels are int16


def class_folders(root: Path) -> Source:
    """Read the folders below `root`.

    Raises:
        UserError: a class folder is empty, or as `by_folder`.
    """
    ignored: list[str] = []
    empty: list[str] = []

    def entries() -> Iterator[Entry]:
        for part in ("train", "val"):
            if not (root / part).is_dir():
                continue
            yield from image_files(root, root / part, ignored)  # by_folder refuses these
            count = 0
            for folder in sorted(entry for entry in (root / part).iterdir() if entry.is_dir()):
                found = list(image_files(root, folder, ignored))
                count += len(found)
                yield from found
                if not found:
                    empty.append(f"{part}/{folder.name}/")
            if not count:
                empty.append(f"{part}/")

    source = by_folder("class folders", root, (), entries())
    if empty:
        raise UserError(
            f"{root} has no image in {', '.join(empty[:5])}{', ...' if empty[5:] else ''}: "
            "fill these folders, or remove them if they are not meant to be there"
        )
    return replace(source, ignored=tuple(ignored))


def tar_of_class_folders(archive: Path, cache: Path | None = None) -> Source:
    """Read an uncompressed tar with class folders at any depth.

    Args:
        archive: the tar.
        cache: folder for the list of its members.

    Raises:
        UserError: as `members` and `by_folder`.
    """
    entries = cached_members(archive, cache, members)
    return by_folder("class folders in a tar", archive.parent, (archive.name,), entries)


def by_folder(kind: str, root: Path, archives: tuple[str, ...], entries: Iterable[Entry]) -> Source:
    """Sort entries into splits and classes by the folders in their names: .../train/<class>/<image>.

    Raises:
        UserError: there is no image, an image has no class folder, or val/ has a class that train/ lacks.
    """
    where = root / archives[0] if archives else root
    file = 0 if archives else -1
    parts: dict[str, dict[str, list[Row]]] = {"train": {}, "val": {}}
    ignored = []
    for entry in entries:
        part, label, name = ("", "", *PurePosixPath(entry.name).parts)[-3:]
        if entry.strange or not is_image_name(name):
            ignored.append(f"{entry.name} ({entry.strange or 'not named as an image'})")
        elif part in parts and label != "..":
            row = Row(entry.name, file, entry.offset, entry.length, 0)
            parts[part].setdefault(label, []).append(row)
        elif label in parts:
            raise UserError(
                f"{where} holds {entry.name}, which is in no class folder: sort {label}/ into "
                f"{label}/<class>/; if this is Kaggle's tree, give the folder that holds LOC_val_solution.csv"
            )
        else:
            ignored.append(f"{entry.name} (not in train/<class>/ or val/<class>/)")
    classes = sorted(parts["train"])
    if not classes:
        raise UserError(f"{where} holds no image under train/<class>/: name another place, imagenet=PATH")
    if len(classes) > MAX_CLASSES:
        raise UserError(f"{where} holds {len(classes)} classes, more than {MAX_CLASSES}: labels are int16")
    if unknown := sorted(parts["val"].keys() - parts["train"].keys()):
        raise UserError(
            f"{where} has val/{unknown[0]} but no train/{unknown[0]}: both parts need the same classes"
        )
    tables = {
        part: table(
            row._replace(label=index) for index, label in enumerate(classes) for row in folders.get(label, ())
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
