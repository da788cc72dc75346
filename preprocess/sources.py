"""ImageNet as people have it -> one table of pictures: where each lies, and what it shows.

Three layouts are known by looking: class folders on disk, class folders in a tar, the official tars.
In all of them a class's index is the rank of its name (the wnid) in sorted order.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocess.archives import members, nested_members
from preprocess.devkit import read_devkit
from preprocess.errors import UserError

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
OFFICIAL = (TRAIN_TAR, VAL_TAR, DEVKIT)
SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_CLASSES = 2**15  # labels are int16


class Picture(NamedTuple):
    """Where a picture lies, and what it shows."""

    name: str  # for messages; in class folders on disk also its path
    file: int  # number of the archive it lies in, -1: a file of its own
    offset: int  # of its first byte in that file
    length: int  # in bytes; -1 marks what is no plain file
    label: int


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
    ignored: int  # entries that are not pictures in a class


def recognise(path: Path) -> Source:
    """Look at `path` and read where its pictures are.

    Raises:
        UserError: there is nothing, nothing known, only half of something, or two things at once.
    """
    if not path.exists():
        raise UserError(
            f"there is no ImageNet at {path}: put the official tars or class folders there, "
            "or name another place with --config imagenet=PATH"
        )
    if path.is_file():
        return official_tars(path.parent) if path.name == TRAIN_TAR else tar_of_class_folders(path)
    tars = [name for name in OFFICIAL if (path / name).is_file()]
    folders = (path / "train").is_dir()
    if tars and folders:
        raise UserError(f"{path} holds both {tars[0]} and train/: leave only one of the two there")
    if tars:
        return official_tars(path)
    if folders:
        return class_folders(path)
    seen = sorted(entry.name for entry in path.iterdir())
    raise UserError(
        f"{path} holds neither train/<class>/ folders nor {TRAIN_TAR}, but "
        f"{', '.join(seen[:5]) + (', ...' if seen[5:] else '') or 'nothing'}: "
        "name the right place with --config imagenet=PATH"
    )


def class_folders(root: Path) -> Source:
    """train/<class>/<picture>, and val/<class>/<picture> where there is one."""

    def entries() -> Iterator[Picture]:
        for part in ("train", "val"):
            for folder in sorted((root / part).glob("*/")):
                for entry in os.scandir(folder):
                    length = entry.stat().st_size if entry.is_file() else -1
                    yield Picture(f"{part}/{folder.name}/{entry.name}", -1, 0, length, 0)

    return _by_folder("class folders", root, (), entries())


def tar_of_class_folders(archive: Path) -> Source:
    """The same in an uncompressed tar, at any depth."""
    entries = (Picture(member.name, 0, member.offset, member.length, 0) for member in members(archive))
    return _by_folder("class folders in a tar", archive.parent, (archive.name,), entries)


def official_tars(root: Path) -> Source:
    """The three files of ILSVRC-2012: a tar of one tar a class, a flat tar, and the devkit."""
    missing = [name for name in OFFICIAL if not (root / name).is_file()]
    if missing:
        raise UserError(f"{root} lacks {' and '.join(missing)}: put the three files of ILSVRC-2012 there")
    devkit = read_devkit(root / DEVKIT)
    index = {wnid: number for number, wnid in enumerate(devkit.classes)}
    train = []
    for tar, member in nested_members(root / TRAIN_TAR):
        wnid = PurePosixPath(tar).stem
        if wnid not in index:
            raise UserError(f"{root / TRAIN_TAR} holds class {wnid}, which {DEVKIT} does not know")
        train.append(Picture(f"{wnid}/{member.name}", 0, member.offset, member.length, index[wnid]))
    # the devkit gives the truth in the order of the names, which need not be the order in the tar
    flat = sorted(member for member in members(root / VAL_TAR) if member.length >= 0)
    if len(flat) != len(devkit.validation):
        raise UserError(
            f"{root / VAL_TAR} holds {len(flat)} pictures and {DEVKIT} names the classes of "
            f"{len(devkit.validation)}: they do not belong together, get both again"
        )
    truth = zip(flat, devkit.validation.tolist(), strict=True)
    plain = [picture for picture in train if picture.length >= 0]
    return Source(
        kind="official ILSVRC-2012 tars",
        root=root,
        archives=(TRAIN_TAR, VAL_TAR),
        classes=devkit.classes,
        class_names=devkit.class_names,
        train=table(plain),
        val=table([Picture(name, 1, offset, length, label) for (name, offset, length), label in truth]),
        ignored=len(train) - len(plain),
    )


def table(pictures: Iterable[Picture]) -> NDArray[np.void]:
    """Pictures as a structured array with Picture's fields, sorted by name (bytes, file system encoding).

    1.3 million rows take some 100 MB, and a worker maps the few that it needs.
    """
    rows = sorted((os.fsencode(picture.name), *picture[1:]) for picture in pictures)
    width = max((len(row[0]) for row in rows), default=1)
    fields = [("name", f"S{width}"), ("file", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i2")]
    return np.array(rows, dtype=fields)


def _by_folder(kind: str, root: Path, archives: tuple[str, ...], entries: Iterable[Picture]) -> Source:
    """Sort entries by the folders in their names: .../train/<class>/<picture>."""
    parts: dict[str, dict[str, list[Picture]]] = {"train": {}, "val": {}}
    ignored = 0
    for entry in entries:
        part, label, name = ("", "", *PurePosixPath(entry.name).parts)[-3:]
        picture = name.lower().endswith(SUFFIXES) and not name.startswith(".")
        if entry.length >= 0 and picture and part in parts and label != "..":
            parts[part].setdefault(label, []).append(entry)
        else:
            ignored += 1
    where = root / archives[0] if archives else root
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
        ignored=ignored,
        **tables,
    )
