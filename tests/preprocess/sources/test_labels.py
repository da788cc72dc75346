"""Labels are compared with the devkit's, by the names of the images."""

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from preprocess.sources.devkit import Devkit
from preprocess.sources.labels import compare, ids_of, official_class
from tests.preprocess.helpers import draw, encode, make_store, stage

# the true classes of the first validation images: n01751748 has the ID 490, n09193705 the ID 361
CLASSES = ("n01440764", "n01751748", "n09193705")
DEVKIT = Devkit(CLASSES, ("tench, Tinca tinca", "crane", "crane"), np.array([1, 2, 1], np.int16))


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("ILSVRC2012_val_00000002.JPEG", "n09193705"),
        ("val/n01440764/ILSVRC2012_val_00000001.JPEG", "n01751748"),
        ("0/ILSVRC2012_val_00000003_n01751748.jpg", "n01751748"),
        ("ILSVRC2012_val_00000004.JPEG", ""),
        ("ILSVRC2012_val_00000000.JPEG", ""),
        ("ILSVRC2012_val_000000001.JPEG", ""),
        ("train/n09193705/n01440764_10026.JPEG", "n01440764"),
        ("n01440764_10026_n01440764.JPEG", "n01440764"),
        ("train/n01440764/1.JPEG", ""),
    ],
)
def test_the_name_of_an_image_tells_its_class(name: str, official: str) -> None:
    assert official_class(name, DEVKIT) == official


def test_classes_are_known_by_their_ids_or_by_words_that_one_class_has() -> None:
    assert ids_of(("n01751748", "cat"), None, DEVKIT) == ["n01751748", ""]
    assert ids_of(("0", "1"), ("tench, Tinca tinca", "crane"), DEVKIT) == ["n01440764", ""]


def test_each_image_is_counted_once() -> None:
    labelled = [(f"n01440764_{number}.JPEG", number % 4) for number in range(40)]
    found = compare(labelled, [*CLASSES, ""], DEVKIT)
    assert (found.agreed, found.contradicting, found.untold) == (10, 20, 10)
    assert len(found.first) == 5
    assert found.first[0] == "n01440764_1.JPEG is n01751748 in the store and n01440764 officially"


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """The devkit as the folder that its tar holds."""
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [(number, wnid, wnid, "", 0) for number, wnid in enumerate(CLASSES, start=1)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    folder = tmp_path / "ILSVRC2012_devkit_t12"
    (folder / "data").mkdir(parents=True)
    (folder / "data/meta.mat").write_bytes(meta.getvalue())
    (folder / "data/ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n")
    return folder


def test_verify_counts_what_agrees_and_names_what_contradicts(devkit: Path, tmp_path: Path) -> None:
    for number, wnid in enumerate(CLASSES, start=1):
        for name in (f"train/{wnid}/{wnid}_7.JPEG", f"val/{wnid}/ILSVRC2012_val_{number:08d}.JPEG"):
            (tmp_path / "imagenet" / name).parent.mkdir(parents=True)
            (tmp_path / "imagenet" / name).write_bytes(encode(draw(number, 30, 30)))
    (tmp_path / "imagenet/train/n01440764/other.JPEG").write_bytes(encode(draw(9, 30, 30)))
    words = ("--image-size", 224)
    store = make_store(tmp_path / "imagenet", tmp_path / "a.zarr", *words)
    done = stage("verify", "--store", store, "--labels", devkit)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 labels agree with" in done.stdout
    assert "0 contradict it, and 1 images have names that tell no class" in done.stdout
    (devkit / "data/ILSVRC2012_validation_ground_truth.txt").write_text("1\n1\n3\n")
    done = stage("verify", "--store", store, "--labels", devkit)
    assert done.returncode == 1
    assert "5 labels agree" in done.stderr
    assert (
        "val/n01751748/ILSVRC2012_val_00000002.JPEG is n01751748 in the store and n01440764 officially"
        in done.stderr
    )
    done = stage("verify", "--store", store, "--labels", tmp_path / "none.tar.gz")
    assert done.returncode == 1
    assert "none.tar.gz cannot be opened (No such file or directory): name ILSVRC2012_devkit" in done.stderr
