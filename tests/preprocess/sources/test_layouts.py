"""The same images in every layout: the same classes, labels and bytes, and so the same pixels."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.io import savemat

from preprocess.pictures.images import convert
from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import (
    SHARD_LENGTH,
    SIZE,
    draw,
    encode,
    images_of,
    make_store,
    tar,
    unpacked,
    zipped,
)

WNIDS = ("n00000010", "n00000020")
TRAIN = {
    wnid: [(f"{wnid}_{number}.JPEG", encode(draw(10 * label + number, 40, 32))) for number in range(4)]
    for label, wnid in enumerate(WNIDS)
}
VAL = [  # number n + 1 is of class n % 2
    (f"ILSVRC2012_val_{number + 1:08d}.JPEG", WNIDS[number % 2], encode(draw(50 + number, 40, 32)))
    for number in range(4)
]
IN_CLASSES = {f"train/{wnid}/{name}": data for wnid, images in TRAIN.items() for name, data in images}
VAL_IN_CLASSES = {f"val/{wnid}/{name}": data for name, wnid, data in VAL}
VAL_FLAT = {f"val/{name}": data for name, _, data in VAL}
SOLUTION = "ImageId,PredictionString\n" + "".join(f"{name[:-5]},{wnid} 1 2 3 4\n" for name, wnid, _ in VAL)
KAGGLE = {
    **{f"ILSVRC/Data/CLS-LOC/{name}": data for name, data in (IN_CLASSES | VAL_FLAT).items()},
    "LOC_val_solution.csv": SOLUTION.encode(),
    "LOC_synset_mapping.txt": b"n00000020 two\nn00000010 one\n",
}
TINY = {
    **{f"train/{wnid}/images/{name}": data for wnid, images in TRAIN.items() for name, data in images},
    **{f"val/images/{name}": data for name, _, data in VAL},
    "val/val_annotations.txt": "".join(f"{name}\t{wnid}\t0\t0\t1\t1\n" for name, wnid, _ in VAL).encode(),
    "wnids.txt": "\n".join(reversed(WNIDS)).encode(),
    "words.txt": b"n00000010\tone\nn00000020\ttwo\nn00000030\tthree\n",
}


def packed(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def devkit() -> bytes:
    """IDs are in another order than wnids."""
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    rows = [(1, WNIDS[1], "two", 0), (2, WNIDS[0], "one", 0), (3, "n00000001", "all", 2)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    truth = b"".join(b"2\n" if wnid == WNIDS[0] else b"1\n" for _, wnid, _ in VAL)
    files = {"data/meta.mat": meta.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": truth}
    return packed(files, "w:gz")


CLASS_TARS = {f"{wnid}.tar": packed(dict(images)) for wnid, images in TRAIN.items()}
OFFICIAL = {
    TRAIN_TAR: packed(CLASS_TARS),
    VAL_TAR: packed({name: data for name, _, data in VAL}),
    DEVKIT: devkit(),
}
CAFFE = "".join(f"{name} {WNIDS.index(wnid)}\n" for name, wnid, _ in VAL).encode()


def folder(files: dict[str, bytes]) -> Callable[[Path], Path]:
    return lambda path: unpacked(path / "set", files)


def in_a_tar(files: dict[str, bytes]) -> Callable[[Path], Path]:
    return lambda path: tar(path / "set.tar", {f"./{name}": data for name, data in files.items()})


def in_a_zip(files: dict[str, bytes], above: str = "") -> Callable[[Path], Path]:
    return lambda path: zipped(path / "set.zip", {above + name: data for name, data in files.items()})


def in_train(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"train/{name}": data for name, data in files.items()}


LAYOUTS = {
    "class folders": folder(IN_CLASSES | VAL_IN_CLASSES),
    "class folders with test/": folder(
        IN_CLASSES | {name.replace("val/", "test/", 1): data for name, data in VAL_IN_CLASSES.items()}
    ),
    "class folders, deeper": folder(
        VAL_IN_CLASSES
        | {f"train/{wnid}/a/{wnid}/{name}": data for wnid, images in TRAIN.items() for name, data in images}
    ),
    "class folders in a tar": in_a_tar(IN_CLASSES | VAL_IN_CLASSES),
    "class folders in a zip": in_a_zip(IN_CLASSES | VAL_IN_CLASSES, "some/folder/"),
    "Kaggle": folder(KAGGLE),
    "Kaggle's zip": in_a_zip(KAGGLE),
    "Tiny ImageNet": folder(TINY),
    "Tiny ImageNet in a tar": in_a_tar(TINY),
    "Tiny ImageNet in a zip": in_a_zip(TINY, "tiny-imagenet-200/"),
    "official": folder(OFFICIAL),
    "torchvision's root": folder(OFFICIAL | IN_CLASSES | VAL_IN_CLASSES | {"meta.bin": b"x"}),
    "torchvision's root without an archive": folder(
        {DEVKIT: OFFICIAL[DEVKIT], **IN_CLASSES, **VAL_IN_CLASSES, "meta.bin": b"x"}
    ),
    "class tars and val/": folder(CLASS_TARS | VAL_IN_CLASSES),
    "class tars in train/ and val/": folder(in_train(CLASS_TARS) | VAL_IN_CLASSES),
    "class tars and the official val": folder(
        CLASS_TARS | {name: OFFICIAL[name] for name in (VAL_TAR, DEVKIT)}
    ),
    "flat val/ and Caffe's list": folder(IN_CLASSES | VAL_FLAT | {"val.txt": CAFFE}),
    "flat val/ and Caffe's list of names": folder(
        IN_CLASSES | VAL_FLAT | {"val/val.txt": "".join(f"val/{n} {w}\n" for n, w, _ in VAL).encode()}
    ),
    "flat val/ and Kaggle's list": folder(
        IN_CLASSES | VAL_FLAT | {"LOC_val_solution.csv": SOLUTION.encode()}
    ),
    "flat val/ and the devkit": folder(IN_CLASSES | VAL_FLAT | {DEVKIT: OFFICIAL[DEVKIT]}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_classes_labels_and_bytes(layout: str, tmp_path: Path) -> None:
    source = recognise(LAYOUTS[layout](tmp_path))
    assert source.classes == WNIDS
    assert source.class_names in (None, ("one", "two"))
    assert images_of(source, "train") == sorted(
        (wnid, data) for wnid, images in TRAIN.items() for _, data in images
    )
    assert images_of(source, "val") == sorted((wnid, data) for _, wnid, data in VAL)


@pytest.mark.parametrize(
    "layout",
    [
        folder({name.removeprefix("train/"): data for name, data in IN_CLASSES.items()}),
        in_a_zip({name.removeprefix("train/"): data for name, data in IN_CLASSES.items()}, "photos/"),
        folder(in_train(CLASS_TARS)),
        folder(CLASS_TARS),
    ],
    ids=["class folders alone", "in a zip", "class tars in train/", "class tars"],
)
def test_layouts_without_a_validation_part(layout: Callable[[Path], Path], tmp_path: Path) -> None:
    source = recognise(layout(tmp_path))
    assert (source.classes, len(source.val)) == (WNIDS, 0)
    assert images_of(source, "train") == sorted(
        (wnid, data) for wnid, images in TRAIN.items() for _, data in images
    )


def test_a_store_made_from_a_zip_has_the_pixels_of_its_images(tmp_path: Path) -> None:
    place = zipped(tmp_path / "set.zip", IN_CLASSES | VAL_IN_CLASSES)
    store = make_store(place, tmp_path / "a.zarr", "--image-size", SIZE, "--shard-length", SHARD_LENGTH)
    images = {
        "train": [data for images in TRAIN.values() for _, data in images],
        "val": [d for _, _, d in VAL],
    }
    for split, expected in images.items():
        stored = np.asarray(zarr.open_array(store / split / "images")[:])
        pixels = sorted(convert(data, "1.JPEG", SIZE, False, False)[0].tobytes() for data in expected)
        assert sorted(image.tobytes() for image in stored) == pixels
