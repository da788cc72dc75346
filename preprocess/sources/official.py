"""The three official files of ILSVRC-2012, their MD5 sums, and the size of the full set.

Recognised by their names.

    ILSVRC2012_img_train.tar        one tar a class: n01440764.tar, ...
    ILSVRC2012_img_val.tar          flat
    ILSVRC2012_devkit_t12.tar.gz    or unpacked

The class of a training image is its tar; that of a validation image is in the devkit, by the number in its
name. torchvision unpacks the archives into train/ and val/ at the same place: these folders are read where an
archive is missing.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from preprocess.containers.entries import Entry
from preprocess.containers.tar import members, nested_members
from preprocess.errors import UserError
from preprocess.shared.image_files import parts_of
from preprocess.sources.cache import cached_members, md5
from preprocess.sources.class_folders import LAYOUT as CLASS_FOLDERS
from preprocess.sources.class_folders import class_folders, part_folders, part_named
from preprocess.sources.devkit import Devkit, read_devkit
from preprocess.sources.tables import Layout, LeftAside, Row, Source, table

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
KIT = DEVKIT.removesuffix(".tar.gz")
DEVKITS = (DEVKIT, f"{KIT}.tar", KIT)  # browsers and macOS unpack it
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
MD5 = {  # as published at image-net.org
    TRAIN_TAR: "1d675b47d978889d74fa0da5fadfb00e",
    VAL_TAR: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
FULL = {"train": 1_281_167, "val": 50_000}  # images
FULL_CLASSES = 1000
FEW = 0.001  # a set that lacks less than this share of the full one is probably incomplete, not a subset


def official_tars(root: Path, cache: Path | None = None) -> Source:
    """Read the training tar (one tar a class), the validation tar (flat) and the devkit.

    Args:
        root: the folder with the three files. Without the first one there are no training images.
        cache: folder for the lists of their members.

    Raises:
        UserError: one is missing or damaged, or they do not belong together.
    """
    kit = find_devkit(root)
    missing = _missing(root)
    if missing not in ([], [TRAIN_TAR]):
        raise _incomplete(root, missing)
    devkit = read_devkit(kit)
    index = {wnid: number for number, wnid in enumerate(devkit.classes)}
    aside = LeftAside()
    archives = (TRAIN_TAR, VAL_TAR) if not missing else (VAL_TAR,)
    train = []
    for entry in cached_members(root / TRAIN_TAR, cache, nested_members) if not missing else ():
        if aside.is_image(entry):
            wnid = entry.name.partition("/")[0]
            if wnid not in index:
                raise UserError(f"{root / TRAIN_TAR} holds class {wnid}, which {kit.name} does not have")
            train.append(Row(entry.name, 0, entry.offset, entry.length, index[wnid]))
    if not train and not missing:
        raise UserError(f"{root / TRAIN_TAR} holds no image: it must be a tar of one tar a class")
    val = validation_tar(root / VAL_TAR, archives.index(VAL_TAR), kit, devkit, cache, aside)
    return Source(
        kind="official ILSVRC-2012 tars",
        root=root,
        archives=archives,
        notes=(f"{TRAIN_TAR} is not there",) if missing else (),
        classes=devkit.classes,
        class_names=devkit.class_names,
        train=table(train),
        val=table(val),
        ignored=tuple(aside.ignored),
        hidden=len(aside.hidden),
    )


def validation_tar(
    archive: Path, number: int, kit: Path, devkit: Devkit, cache: Path | None, aside: LeftAside
) -> list[Row]:
    """The images of the validation tar, which is the archive with this number, with labels from the devkit.

    Raises:
        UserError: it is damaged, or does not belong to the devkit.
    """
    images = [entry for entry in cached_members(archive, cache, members) if aside.is_image(entry)]
    if len(images) != len(devkit.validation):
        raise UserError(
            f"{archive} holds {len(images)} images and {kit.name} names the classes of "
            f"{len(devkit.validation)}: they do not belong together, get both again"
        )
    return list(_labelled(archive, number, images, devkit))


def find_devkit(root: Path) -> Path:
    """The devkit at a place, packed or not; its usual name where there is none."""
    return next((root / name for name in DEVKITS if (root / name).exists()), root / DEVKIT)


def complete(root: Path) -> bool:
    """Whether the three files are at a place."""
    return not _missing(root)


def _missing(root: Path) -> list[str]:
    return [path.name for path in (root / TRAIN_TAR, root / VAL_TAR, find_devkit(root)) if not path.exists()]


def _labelled(archive: Path, number: int, images: Iterable[Entry], devkit: Devkit) -> Iterator[Row]:
    """Yield the validation images with their labels. The number in an image's name is its line in the devkit.

    Raises:
        UserError: a name has no such number or one that another image has, or the image is in the folder of
            another class.
    """
    seen: dict[int, str] = {}
    for entry in images:
        *folders, name = parts_of(entry.name)
        match = VAL_NAME.fullmatch(name)
        line = int(match[1]) if match else 0
        if not 1 <= line <= len(devkit.validation):
            raise UserError(
                f"{archive} holds {entry.name}, and the devkit names the classes of the images "
                f"ILSVRC2012_val_00000001 to _{len(devkit.validation):08d}: get the archive again"
            )
        if line in seen:
            raise UserError(
                f"{archive} holds {seen[line]} and {entry.name}, which have one number: get the archive again"
            )
        seen[line] = entry.name
        label = int(devkit.validation[line - 1])
        wnid = devkit.classes[label]
        if folders and folders[-1] in devkit.classes and folders[-1] != wnid:
            raise UserError(
                f"{archive} holds {entry.name}, and the devkit says that this image is of class {wnid}: "
                "get the archive again"
            )
        yield Row(entry.name, number, entry.offset, entry.length, label)


def check_md5(source: Source, cache: Path | None = None) -> None:
    """Compare the official files with their published MD5 sums. Raises UserError."""
    if VAL_TAR not in source.archives:
        raise UserError(
            f"verify_md5 is for the official tars, and {source.root} was recognised as {source.kind}: "
            "leave verify_md5 out"
        )
    if not (source.root / DEVKIT).is_file():
        raise UserError(
            f"verify_md5 needs {DEVKIT} as it was published: put it there, or leave verify_md5 out"
        )
    for name in (*source.archives, DEVKIT):
        expected = MD5[name]
        found = md5(source.root / name, cache)
        if found != expected:
            raise UserError(
                f"{source.root / name} has the MD5 sum {found} and not ILSVRC-2012's {expected}: "
                "get it again, or leave verify_md5 out if it is meant to differ"
            )


def describe_extent(source: Source, subset: bool = False) -> str:
    """Describe in words whether this is the full ILSVRC-2012 or a subset.

    Args:
        source: the images that were found.
        subset: accept a set that lacks a few images of the full one.

    Raises:
        UserError: it lacks a few images or has a few too many, and `subset` is False.
    """
    found = {split: len(getattr(source, split)) for split in FULL}
    whole = [found[split] == FULL[split] for split in FULL]
    classes = len(source.classes)
    if classes == FULL_CLASSES and (all(whole) or (whole[0] and not found["val"])):
        return "the full ILSVRC-2012" + ("" if all(whole) else " without its validation part")
    compared = ", ".join(f"{found[split]:,} of {FULL[split]:,} {split} images" for split in FULL)
    nearly = any(0 < abs(found[split] - FULL[split]) < FEW * FULL[split] for split in FULL)
    if classes == FULL_CLASSES and nearly and not subset:
        raise UserError(
            f"{source.root} is nearly the full ILSVRC-2012, with {compared}: get the missing ones again, "
            "or set --config subset=true if a subset is intended"
        )
    return f"a subset of ILSVRC-2012's size: {compared}, {classes:,} of {FULL_CLASSES:,} classes"


def _incomplete(root: Path, missing: list[str]) -> UserError:
    seen = [name for name in (TRAIN_TAR, VAL_TAR, find_devkit(root).name) if name not in missing]
    return UserError(
        f"{root} holds {' and '.join(seen)} but lacks {' and '.join(missing)}: "
        "put the three files of ILSVRC-2012 there"
    )


def _marks(path: Path) -> list[str]:
    names = (TRAIN_TAR, VAL_TAR, *DEVKITS)
    if path.is_file():
        return [path.name] if path.name in names else []
    return [name for name in names if (path / name).exists()]


def _read(path: Path, cache: Path | None) -> Source:
    """Read the archives; or the folders train/ and val/ next to them, where an archive is missing."""
    if path.is_file():
        return official_tars(path.parent, cache)
    folders, missing = part_folders(path), _missing(path)
    named = " and ".join(f"{folder}/" for folder in folders)
    if missing and {part_named(folder) for folder in folders} == {"train", "val"}:
        source = class_folders(path)
        lacking = f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} missing"
        note = f"{named} are read, because {lacking}"
    elif missing and folders:
        raise _incomplete(path, missing)
    else:
        source = official_tars(path, cache)
        note = f"the archives are read, and not {named}"
    return replace(source, notes=(*source.notes, note)) if folders else source


LAYOUT = Layout(name="the official tars", marks=_marks, read=_read, before=(CLASS_FOLDERS.name,))
