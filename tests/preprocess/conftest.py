"""An ImageNet of class folders, and one store made from it by the real command."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.preprocess.helpers import CLASSES, draw, encode, settings, snakemake


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 training and 18 validation pictures of three classes; three of them need a repair."""
    root = tmp_path_factory.mktemp("imagenet")
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
    return root


@pytest.fixture(scope="session")
def store(imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store; tests must not change it."""
    path = tmp_path_factory.mktemp("store") / "small.zarr"
    run = snakemake("--cores", "2", *settings(imagenet, path))
    assert run.returncode == 0, run.stderr
    return path
