"""The three official files of ILSVRC-2012, their MD5 sums, and the size of the full set."""

from pathlib import Path

from preprocess.errors import UserError
from preprocess.sources.archives import members, nested_members
from preprocess.sources.cache import cached_members, md5
from preprocess.sources.devkit import read_devkit
from preprocess.sources.tables import Row, Source, is_image_name, table

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
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
    missing = [name for name in MD5 if not (root / name).is_file()]
    if missing:
        seen = [name for name in MD5 if name not in missing]
        raise UserError(
            f"{root} holds {' and '.join(seen)} but lacks {' and '.join(missing)}: "
            "put the three files of ILSVRC-2012 there"
        )
    devkit = read_devkit(root / DEVKIT)
    index = {wnid: number for number, wnid in enumerate(devkit.classes)}
    train, ignored = [], []
    for entry in cached_members(root / TRAIN_TAR, cache, nested_members):
        wnid, _, name = entry.name.partition("/")
        if entry.strange or not is_image_name(name):
            ignored.append(f"{entry.name} ({entry.strange or 'not named as an image'})")
        elif wnid not in index:
            raise UserError(f"{root / TRAIN_TAR} holds class {wnid}, which {DEVKIT} does not have")
        else:
            train.append(Row(entry.name, 0, entry.offset, entry.length, index[wnid]))
    if not train:
        raise UserError(f"{root / TRAIN_TAR} holds no image: it must be a tar of one tar a class")
    # the devkit's labels are in the order of the names, which need not be the order in the tar
    flat = []
    for entry in sorted(cached_members(root / VAL_TAR, cache, members)):
        if entry.strange or not is_image_name(entry.name.rpartition("/")[2]):
            ignored.append(f"{entry.name} ({entry.strange or 'not named as an image'})")
        else:
            flat.append(entry)
    if len(flat) != len(devkit.validation):
        raise UserError(
            f"{root / VAL_TAR} holds {len(flat)} images and {DEVKIT} names the classes of "
            f"{len(devkit.validation)}: they do not belong together, get both again"
        )
    labelled = zip(flat, devkit.validation.tolist(), strict=True)
    return Source(
        kind="official ILSVRC-2012 tars",
        root=root,
        archives=(TRAIN_TAR, VAL_TAR),
        classes=devkit.classes,
        class_names=devkit.class_names,
        train=table(train),
        val=table(Row(entry.name, 1, entry.offset, entry.length, label) for entry, label in labelled),
        ignored=tuple(ignored),
    )


def check_md5(source: Source, cache: Path | None = None) -> None:
    """Compare the official files with their published MD5 sums. Raises UserError."""
    if source.archives != (TRAIN_TAR, VAL_TAR):
        raise UserError(
            f"verify_md5 is for the official tars, and {source.root} was recognised as {source.kind}: "
            "leave verify_md5 out"
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
