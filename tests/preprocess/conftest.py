"""An ImageNet of class folders, one store made from it by the real command, and three official tars."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR
from tests.preprocess.helpers import CLASSES, draw, encode, settings, snakemake, tar
from tests.stores import shared


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 training and 18 validation images of three classes; three of them need a repair."""
    return shared(tmp_path_factory, "imagenet", draw_imagenet)


def draw_imagenet(root: Path) -> None:
    random = np.random.default_rng(0)
    strange: dict[int, Callable[[Image.Image], bytes]] = {
        5: lambda image: encode(image.convert("L")),
        30: lambda image: encode(image.convert("CMYK")),
        55: lambda image: encode(image, "PNG"),
    }
    for number in range(90):
        part = "val" if number % 5 == 4 else "train"
        folder = root / part / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        width, height = (int(side) for side in random.integers(30, 130, 2))
        make = strange.get(number, encode)
        (folder / f"{number}.JPEG").write_bytes(make(draw(number, width, height)))
    (root / "train" / "n01" / "black.JPEG").write_bytes(encode(Image.new("RGB", (60, 50))))


@pytest.fixture(scope="session")
def store(imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store; tests must not change it."""

    def make(folder: Path) -> None:
        run = snakemake("--cores", "2", *settings(imagenet, folder / "small.zarr"))
        assert run.returncode == 0, run.stderr

    return shared(tmp_path_factory, "store", make) / "small.zarr"


@pytest.fixture
def official_set(tmp_path: Path) -> Path:
    """Official tars of three classes whose IDs are in another order than their names, and an inner node."""
    inner = {}
    for wnid in ("n30", "n10", "n20"):
        images = {f"{wnid}_{number}.JPEG": f"{wnid} {number}".encode() * 200 for number in (7, 3)}
        inner[f"{wnid}.tar"] = tar(tmp_path / "inner.tar", images).read_bytes()
    (tmp_path / "inner.tar").unlink()
    tar(tmp_path / TRAIN_TAR, inner)
    # in the tar the validation images are in another order than their names
    tar(
        tmp_path / VAL_TAR,
        {f"ILSVRC2012_val_{number:08d}.JPEG": bytes([number]) * 9 for number in (2, 4, 1, 3)},
    )
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [
        (1, "n20", "two, deux", "", 0),
        (2, "n30", "three", "", 0),
        (3, "n10", "one", "", 0),
        (4, "n00", "all", "", 3),
    ]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    data = "ILSVRC2012_devkit_t12/data/"
    truth = {
        f"{data}meta.mat": meta.getvalue(),
        f"{data}ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n2\n",
    }
    tar(tmp_path / DEVKIT, truth, "w:gz")
    return tmp_path
