"""The three official files of ILSVRC-2012, their MD5 sums, and the size of the full set."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from preprocess.containers.entries import Entry
from preprocess.containers.tar import members, nested_members
from preprocess.errors import UserError
from preprocess.shared.image_files import parts_of
from preprocess.sources.cache import cached_members, md5
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
        root: the folder with the three files.
        cache: folder for the lists of their members.

    Raises:
        UserError: one is missing or damaged, or they do not belong together.
    """
    kit = next((root / name for name in DEVKITS if (root / name).exists()), root / DEVKIT)
    missing = [path.name for path in (root / TRAIN_TAR, root / VAL_TAR, kit) if not path.exists()]
    if missing:
        seen = [name for name in (TRAIN_TAR, VAL_TAR, kit.name) if name not in missing]
        raise UserError(
            f"{root} holds {' and '.join(seen)} but lacks {' and '.join(missing)}: "
            "put the three files of ILSVRC-2012 there"
        )
    devkit = read_devkit(kit)
    index = {wnid: number for number, wnid in enumerate(devkit.classes)}
    aside = LeftAside()
    train = []
    for entry in cached_members(root / TRAIN_TAR, cache, nested_members):
        if aside.is_image(entry):
            wnid = entry.name.partition("/")[0]
            if wnid not in index:
                raise UserError(f"{root / TRAIN_TAR} holds class {wnid}, which {kit.name} does not have")
            train.append(Row(entry.name, 0, entry.offset, entry.length, index[wnid]))
    if not train:
        raise UserError(f"{root / TRAIN_TAR} holds no image: it must be a tar of one tar a class")
    images = [entry for entry in cached_members(root / VAL_TAR, cache, members) if aside.is_image(entry)]
    if len(images) != len(devkit.validation):
        raise UserError(
            f"{root / VAL_TAR} holds {len(images)} images and {kit.name} names the classes of "
            f"{len(devkit.validation)}: they do not belong together, get both again"
        )
    return Source(
        kind="official ILSVRC-2012 tars",
        root=root,
        archives=(TRAIN_TAR, VAL_TAR),
        classes=devkit.classes,
        class_names=devkit.class_names,
        train=table(train),
        val=table(_labelled(root / VAL_TAR, images, devkit)),
        ignored=tuple(aside.ignored),
        hidden=len(aside.hidden),
    )


def _labelled(archive: Path, images: Iterable[Entry], devkit: Devkit) -> Iterator[Row]:
    """Yield the validation images with their labels. The number in an image's name is its line in the devkit.

    Raises:
        UserError: a name has no such number or one that another image has, or the image is in the folder of
            another class.
    """
    seen: dict[int, str] = {}
    for entry in images:
        *folders, name = parts_of(entry.name)
        match = VAL_NAME.fullmatch(name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(devkit.validation):
            raise UserError(
                f"{archive} holds {entry.name}, and the devkit names the classes of the images "
                f"ILSVRC2012_val_00000001 to _{len(devkit.validation):08d}: get the archive again"
            )
        if number in seen:
            raise UserError(
                f"{archive} holds {seen[number]} and {entry.name}, which have one number: "
                "get the archive again"
            )
        seen[number] = entry.name
        label = int(devkit.validation[number - 1])
        wnid = devkit.classes[label]
        if folders and folders[-1] in devkit.classes and folders[-1] != wnid:
            raise UserError(
                f"{archive} holds {entry.name}, and the devkit says that this image is of class {wnid}: "
                "get the archive again"
            )
        yield Row(entry.name, 1, entry.offset, entry.length, label)


def check_md5(source: Source, cache: Path | None = None) -> None:
    """Compare the official files with their published MD5 sums. Raises UserError."""
    if source.archives != (TRAIN_TAR, VAL_TAR):
        raise UserError(
            f"verify_md5 is for the official tars, and {source.root} was recognised as {source.kind}: "
            "leave verify_md5 out"
        )
    if not (source.root / DEVKIT).is_file():
        raise UserError(
            f"verify_md5 needs {DEVKIT} as it was published: put it there, or leave verify_md5 out"
        )
    for name, expected in MD5.items():
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


def _marks(path: Path) -> list[str]:
    names = (TRAIN_TAR, VAL_TAR, *DEVKITS)
    if path.is_file():
        return [path.name] if path.name in names else []
    return [name for name in names if (path / name).exists()]


def _read(path: Path, cache: Path | None) -> Source:
    return official_tars(path.parent if path.is_file() else path, cache)


LAYOUT = Layout(name="the official tars", marks=_marks, read=_read)
