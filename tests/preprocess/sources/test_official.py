"""The three official tars: their sums, what is ignored in them, and what is refused."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from preprocess.errors import UserError
from preprocess.sources import official
from preprocess.sources.devkit import read_devkit
from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import tar

FIELDS = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def test_names_and_sums_are_those_that_torchvision_has_too() -> None:
    assert official.MD5 == {
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    }


def inner(path: Path, *names: str) -> bytes:
    return tar(path, dict.fromkeys(names, b"a")).read_bytes()


def test_what_is_no_image_in_the_official_tars_is_ignored_with_a_reason(official_set: Path) -> None:
    spare = official_set / "spare.tar"
    tar(
        official_set / TRAIN_TAR,
        {
            "README": b"a",
            "n10.tar": inner(spare, "notes.txt", "/1.JPEG", "n10_1.JPEG"),
        },
    )
    images = {f"some/folder/{number}.JPEG": b"a" for number in (1, 2, 3, 4)}
    tar(official_set / VAL_TAR, {"../0.JPEG": b"", "some/folder/.5.JPEG": b"", **images})
    source = recognise(official_set)
    assert source.train["name"].tolist() == [b"n10/n10_1.JPEG"]
    assert source.val["name"].tolist() == [name.encode() for name in images]
    assert source.ignored == (
        "README (not the tar of a class)",
        "n10/notes.txt (not named as an image)",
        "n10//1.JPEG (an absolute name)",
        "../0.JPEG (a name that climbs out)",
        "some/folder/.5.JPEG (not named as an image)",
    )


def test_official_tars_that_do_not_belong_together_are_refused(official_set: Path) -> None:
    spare = official_set / "spare.tar"
    for images, sentence in (
        ({"n10.tar": inner(spare, "1.JPEG"), "n11.tar": inner(spare, "1.JPEG")}, "holds class n11, which"),
        ({"n10.tar": inner(spare, "notes.txt")}, "holds no image: it must be a tar of one tar a class"),
    ):
        whole = (official_set / TRAIN_TAR).read_bytes()
        tar(official_set / TRAIN_TAR, images)
        with pytest.raises(UserError, match=f"{official_set}/{TRAIN_TAR} {sentence}"):
            recognise(official_set)
        (official_set / TRAIN_TAR).write_bytes(whole)
    tar(official_set / VAL_TAR, {"1.JPEG": b"a", "2.JPEG": b"b"})
    with pytest.raises(
        UserError, match=f"{official_set}/{VAL_TAR} holds 2 images and .* the classes of 4: they"
    ):
        recognise(official_set)


def devkit(folder: Path, rows: list[tuple], truth: bytes) -> Path:
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=FIELDS).reshape(-1, 1)})
    return tar(folder / DEVKIT, {"data/meta.mat": meta.getvalue(), f"data/{TRUTH}": truth}, "w:gz")


def test_a_devkit_of_one_class_is_read(tmp_path: Path) -> None:
    found = read_devkit(devkit(tmp_path, [(7, "n10", "one", 0)], b"7\n7\n"))
    assert (found.classes, found.class_names, found.validation.tolist()) == (("n10",), ("one",), [0, 0])
    assert found.validation.dtype == np.int16


def test_a_damaged_devkit_is_refused(tmp_path: Path) -> None:
    path = devkit(tmp_path, [(1, "n10", "one", 0), (2, "n00", "all", 1)], b"1\n2\n")
    with pytest.raises(UserError, match=rf"{TRUTH} names class 2, which data/meta\.mat does not have"):
        read_devkit(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"tar\.gz cannot be read \(.*\): get it again"):
        read_devkit(path)
    path.write_bytes(gzip.compress(b"no tar"))
    with pytest.raises(UserError, match=r"tar\.gz cannot be read \(.*\): get it again"):
        read_devkit(path)
    meta, truth = {"data/meta.mat": b"no matrix"}, {f"data/{TRUTH}": b"1\n"}
    for files, sentence in (
        (meta, f"holds no data/{TRUTH}"),
        (truth, r"holds no data/meta\.mat"),
        (meta | truth, r"data/meta\.mat cannot be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_devkit(tar(path, files, "w:gz"))
