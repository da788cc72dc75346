"""ImageNet as people have it -> tables of pictures: what lies at a path is found out by looking.

Four layouts are known: class folders on disk, class folders in a tar, the official tars, Kaggle's tree.
In all of them a class's index is the rank of its name (the wnid) in sorted order.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from preprocess.errors import UserError
from preprocess.sources.archives import members
from preprocess.sources.cache import remembered
from preprocess.sources.kaggle import IMAGES, MAPPING, SOLUTION, files, kaggle_tree
from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR, official_tars
from preprocess.sources.tables import Entry, Source, by_folder

MARKS = {  # what a layout is known by
    "the official tars": (TRAIN_TAR, VAL_TAR, DEVKIT),
    "Kaggle's tree": (str(IMAGES), SOLUTION, MAPPING),
    "class folders": ("train",),
}


def recognise(path: Path, cache: Path | None = None) -> Source:
    """Look at `path` and read where its pictures are.

    Args:
        path: a folder, or a tar of class folders, or one of the official tars.
        cache: folder for what was read of archives' headers, so that it need not be read again.

    Raises:
        UserError: there is nothing, nothing known, only half of something, or two things at once.
    """
    if not path.exists():
        raise UserError(
            f"there is no ImageNet at {path}: put the official tars or class folders there, "
            "or name another place with --config imagenet=PATH"
        )
    if path.is_file():
        if path.name in MARKS["the official tars"]:
            return official_tars(path.parent, cache)
        return tar_of_class_folders(path, cache)
    seen = {layout: [mark for mark in marks if (path / mark).exists()] for layout, marks in MARKS.items()}
    layouts = [layout for layout, marks in seen.items() if marks]
    if len(layouts) > 1:
        both = " and ".join(f"{layout} ({', '.join(seen[layout])})" for layout in layouts)
        raise UserError(f"{path} holds both {both}: leave only one of them there")
    if layouts == ["the official tars"]:
        return official_tars(path, cache)
    if layouts == ["Kaggle's tree"]:
        return kaggle_tree(path)
    if layouts == ["class folders"]:
        return class_folders(path)
    there = sorted(entry.name for entry in path.iterdir())
    raise UserError(
        f"{path} holds neither train/<class>/ folders nor {TRAIN_TAR} nor Kaggle's ILSVRC/, but "
        f"{', '.join(there[:5]) + (', ...' if there[5:] else '') or 'nothing'}: "
        "name the right place with --config imagenet=PATH"
    )


def class_folders(root: Path) -> Source:
    """train/<class>/<picture>, and val/<class>/<picture> where there is a val/."""
    strange: list[str] = []
    empty: list[str] = []

    def entries() -> Iterator[Entry]:
        for part in ("train", "val"):
            if not (root / part).is_dir():
                continue
            yield from files(root, root / part, strange)  # by_folder says what is wrong with these
            count = 0
            for folder in sorted(entry for entry in (root / part).iterdir() if entry.is_dir()):
                found = list(files(root, folder, strange))
                count += len(found)
                yield from found
                if not found:
                    empty.append(f"{part}/{folder.name}/")
            if not count:
                empty.append(f"{part}/")

    source = by_folder("class folders", root, (), entries())
    if empty:
        raise UserError(
            f"{root} has no picture in {', '.join(empty[:5])}{', ...' if empty[5:] else ''}: "
            "fill these folders, or remove them if they are not meant to be there"
        )
    return replace(source, ignored=tuple(strange))


def tar_of_class_folders(archive: Path, cache: Path | None = None) -> Source:
    """The same in an uncompressed tar, at any depth."""
    entries = remembered(archive, cache, members)
    return by_folder("class folders in a tar", archive.parent, (archive.name,), entries)
