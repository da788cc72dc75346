"""One tar a class, as in ILSVRC2012_img_train.tar when it is unpacked once.

Recognised by tars that are named as wnids, in train/ or in the folder itself.

    train/n01440764.tar
    train/n01443537.tar
    val/n01440764/ILSVRC2012_val_00000293.JPEG

The class of a training image is its tar. For validation there are class folders in val/, or the official
ILSVRC2012_img_val.tar with the devkit; else a part of the training images is taken.
"""

import re
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from preprocess.containers.entries import Entry
from preprocess.containers.tar import members
from preprocess.errors import UserError
from preprocess.shared import progress
from preprocess.shared.image_files import hidden_part
from preprocess.sources.cache import cached_members
from preprocess.sources.class_folders import LAYOUT as CLASS_FOLDERS
from preprocess.sources.class_folders import Shape, files_on_disk, part_folders, part_named, sort_by_folder
from preprocess.sources.devkit import Devkit, read_devkit
from preprocess.sources.official import DEVKIT, DEVKITS, TRAIN_TAR, VAL_TAR, find_devkit, validation_tar
from preprocess.sources.official import LAYOUT as OFFICIAL
from preprocess.sources.tables import Layout, LeftAside, Row, Source, in_class_order, table

CLASS_TAR = re.compile(r"(n\d{8})\.tar")


def class_tars(root: Path, cache: Path | None = None) -> Source:
    """Read the tars of the classes, and the validation part next to them.

    Args:
        root: the folder with the tars, or with train/ that holds them.
        cache: folder for the lists of their members.

    Raises:
        UserError: a tar is damaged or holds no image, or parts disagree.
        OSError: a folder cannot be listed.
    """
    tars = _tars(root)
    beside = sorted(path.name for path in root.iterdir() if not hidden_part(path.name))
    devkit: Devkit | None = None
    aside, notes, by_class = LeftAside(), list[str](), dict[str, list[Row]]()
    if part_folders(root, "val"):
        if VAL_TAR in beside:
            raise UserError(f"{root} holds both {VAL_TAR} and val/: leave only one of them there")
        others = (entry for entry in files_on_disk(root) if not _of_training(entry.name))
        found = sort_by_folder(root, others, Shape(), -1)
        aside, notes, by_class = found.aside, found.notes, found.rows["val"]
    else:
        if VAL_TAR in beside:
            devkit = _devkit(root)
        for name in beside:
            if name not in (VAL_TAR, *DEVKITS) and not _of_training(name):
                aside.ignore(name, "not the tar of a class")
    classes = devkit.classes if devkit else in_class_order(tars)
    index = {wnid: label for label, wnid in enumerate(classes)}
    if unknown := sorted((tars.keys() | by_class.keys()) - index.keys()):
        other = "the devkit does not name" if devkit else "has no tar"
        raise UserError(f"{root} has class {unknown[0]}, which {other}: both parts need the same classes")
    for folder in part_folders(root, "train"):
        for path in sorted((root / folder).iterdir()):
            if not CLASS_TAR.fullmatch(path.name) and aside.is_image(Entry(f"{folder}/{path.name}", 0, 0)):
                aside.ignore(f"{folder}/{path.name}", "not the tar of a class")
    archives = tuple(tars.values())
    train: list[Row] = []
    with closing(progress.counter(" tars", len(tars), "list of members")) as bar:
        for number, (wnid, name) in enumerate(tars.items()):
            train += _images(root / name, number, wnid, index[wnid], cache, aside)
            bar.update(1)
    if devkit:
        archives += (VAL_TAR,)
        val: Iterable[Row] = validation_tar(
            root / VAL_TAR, len(tars), find_devkit(root), devkit, cache, aside
        )
    else:
        val = (row._replace(label=index[wnid]) for wnid, rows in by_class.items() for row in rows)
    return Source(
        kind="one tar a class",
        root=root,
        archives=archives,
        classes=classes,
        class_names=devkit.class_names if devkit else None,
        train=table(train),
        val=table(val),
        ignored=tuple(aside.ignored),
        hidden=len(aside.hidden),
        notes=tuple(notes),
    )


def _devkit(root: Path) -> Devkit:
    if not find_devkit(root).exists():
        raise UserError(f"{root} holds {VAL_TAR} but lacks {DEVKIT}, which names its classes: put it there")
    return read_devkit(find_devkit(root))


def _images(
    archive: Path, number: int, wnid: str, label: int, cache: Path | None, aside: LeftAside
) -> list[Row]:
    """The images of a class. Raises UserError: there is none, or the tar is damaged."""
    rows = []
    for entry in cached_members(archive, cache, members, shown=False):
        entry = entry._replace(name=f"{wnid}/{entry.name}")
        if aside.is_image(entry):
            rows.append(Row(entry.name, number, entry.offset, entry.length, label))
    if not rows:
        raise UserError(f"{archive} holds no image: get it again, or remove it")
    return rows


def _tars(root: Path) -> dict[str, str]:
    """The tars at a place by class. Raises UserError where a class has two, or a tar and a folder."""
    tars: dict[str, str] = {}
    for name in _tar_names(root):
        wnid = name.removesuffix(".tar").rpartition("/")[2]
        if (other := tars.setdefault(wnid, name)) != name:
            raise UserError(f"{root} holds both {other} and {name}: leave only one of them there")
    unpacked = [
        f"{folder}/{path.name}"
        for folder in part_folders(root, "train")
        for path in sorted((root / folder).iterdir())
        if path.is_dir() and not hidden_part(path.name)
    ]
    if unpacked:
        raise UserError(
            f"{root} holds both {next(iter(tars.values()))} and the folder {unpacked[0]}/: unpack all of the "
            "tars, or none"
        )
    return dict(sorted(tars.items()))


def _tar_names(root: Path) -> list[str]:
    folders = ("", *(f"{name}/" for name in part_folders(root, "train")))
    return [
        folder + path.name
        for folder in folders
        for path in sorted((root / folder).iterdir())
        if CLASS_TAR.fullmatch(path.name)
    ]


def _of_training(name: str) -> bool:
    first = name.partition("/")[0]
    return part_named(first) == "train" or CLASS_TAR.fullmatch(first) is not None


def _marks(path: Path) -> list[str]:
    if not path.is_dir() or (path / TRAIN_TAR).exists():
        return []
    return _tar_names(path)[:1]


LAYOUT = Layout(
    name="one tar a class", marks=_marks, read=class_tars, before=(OFFICIAL.name, CLASS_FOLDERS.name)
)
