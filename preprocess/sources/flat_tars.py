"""Flat tars of ImageNet, as Hugging Face handed it out before it had Parquet files.

Recognised by the names of the tars in a folder or in its folder data/. They may be decompressed.

    imagenet-1k/data/train_images_0.tar.gz      n01440764_10026_n01440764.JPEG, ...
    ...
    imagenet-1k/data/train_images_4.tar.gz
    imagenet-1k/data/val_images.tar.gz          ILSVRC2012_val_00000293_n01440764.JPEG, ...
    imagenet-1k/data/test_images.tar.gz         not used

The class of an image is the wnid at the end of its name.
"""

import re
from pathlib import Path

from preprocess.containers.tar import members
from preprocess.errors import UserError
from preprocess.shared.image_files import hidden_part, parts_of
from preprocess.sources.cache import cached_members
from preprocess.sources.class_folders import part_named
from preprocess.sources.tables import Layout, LeftAside, Row, Source, table

ARCHIVE = re.compile(r"(train|val|test)_images(?:_(\d{1,3}))?\.(?:tar|tar\.gz|tgz)")
FOLDER = "data"
LABELLED = re.compile(r".*_(n\d{8})\.[^.]+")


def flat_tars(root: Path, cache: Path | None = None) -> Source:
    """Read the tars in a folder.

    Args:
        root: the folder.
        cache: folder for the lists of their members.

    Raises:
        UserError: a tar is missing or damaged, or an image has no class, or one that is not in training.
    """
    aside = LeftAside()
    archives = _archives(root, aside)
    named: dict[str, list[tuple[str, Row]]] = {"train": [], "val": []}  # rows with their wnids
    for number, name in enumerate(archives):
        part = part_named(name.partition("_")[0])
        for entry in cached_members(root / name, cache, members):
            if aside.is_image(entry):
                found = LABELLED.fullmatch(parts_of(entry.name)[-1])
                if not found:
                    raise UserError(
                        f"{root / name} holds {entry.name}, whose name does not end with a wnid: "
                        "get the archive again"
                    )
                row = Row(f"{name}/{entry.name}", number, entry.offset, entry.length, 0)
                named[part].append((found[1], row))
    classes = sorted({wnid for wnid, _ in named["train"] or named["val"]})
    index = {wnid: label for label, wnid in enumerate(classes)}
    if not classes:
        raise UserError(f"{root} holds no image in its archives: get them again")
    if unknown := next((row.name for wnid, row in named["val"] if wnid not in index), ""):
        raise UserError(
            f"{root / unknown} is of a class that has no image for training: get all archives of training"
        )
    tables = {
        part: table(row._replace(label=index[wnid]) for wnid, row in rows) for part, rows in named.items()
    }
    return Source(
        kind="flat tars of ImageNet",
        root=root,
        archives=archives,
        classes=tuple(classes),
        class_names=None,
        train=tables["train"],
        val=tables["val"],
        ignored=tuple(aside.ignored),
        hidden=len(aside.hidden),
    )


def _archives(root: Path, aside: LeftAside) -> tuple[str, ...]:
    """The tars for training and validation.

    Raises:
        UserError: a number is missing, or a tar is there twice.
    """
    found: dict[tuple[str, int], str] = {}
    for name in sorted(path.name for path in root.iterdir()):
        match = ARCHIVE.fullmatch(name)
        if hidden_part(name):
            aside.hidden.add(name)
        elif not match:
            aside.ignore(name, "not one of the archives")
        elif match[1] == "test":
            aside.ignore(name, "a test part is not used")
        elif other := found.get(key := (match[1], int(match[2] or 0))):
            raise UserError(f"{root} holds both {other} and {name}: leave only one of them there")
        else:
            found[key] = name
    numbers = [number for part, number in found if part == "train"]
    if missing := sorted(set(range(max(numbers, default=0))).difference(numbers)):
        raise UserError(f"{root} lacks train_images_{missing[0]}.tar.gz: get it")
    return tuple(found.values())


def _folder(path: Path) -> Path:
    """The folder that holds the archives."""
    return path if _named(path) or not (path / FOLDER).is_dir() else path / FOLDER


def _named(folder: Path) -> list[str]:
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return [name for name in there if ARCHIVE.fullmatch(name)]


LAYOUT = Layout(
    name="flat tars of ImageNet",
    marks=lambda path: _named(_folder(path)) if path.is_dir() else [],
    read=lambda path, cache: flat_tars(_folder(path), cache),
)
