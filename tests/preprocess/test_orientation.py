"""Photographs that lie sideways: turned where the source is not ImageNet's, and where the setting says so."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.plan import Plan, load_plan, with_identity
from preprocess.sources.tables import Row, table
from preprocess.store import open_store
from tests.preprocess.helpers import draw, encode, make_store, stage


@pytest.fixture
def sideways(tmp_path: Path) -> Path:
    """Class folders whose photographs a telephone has stored sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos/train" / name).mkdir(parents=True)
        for n in range(3):
            data = encode(draw(10 * number + n, 224, 300), exif=exif)
            (tmp_path / "photos/train" / name / f"{n}.jpg").write_bytes(data)
    return tmp_path / "photos"


def index(source: Path, store: Path, *words: object) -> str:
    """Run the stage; return the plan's orientation."""
    flags = ("--image-size", 224, "--validation-fraction", 0.4, *words)
    done = stage("index", "--imagenet", source, "--store", store, *flags)
    assert done.returncode == 0, done.stderr
    assert ("turned as their EXIF data say" in done.stdout) == load_plan(store).upright
    return load_plan(store).orientation


def test_class_folders_are_turned_and_those_of_imagenet_are_not(sideways: Path, tmp_path: Path) -> None:
    assert index(sideways, tmp_path / "a.zarr") == "upright"
    assert index(sideways, tmp_path / "b.zarr", "--orientation", "as-stored") == "as-stored"
    assert index(sideways, tmp_path / "b.zarr") == "as-stored"  # as the store was begun
    refused = stage("index", "--imagenet", sideways, "--store", tmp_path / "a.zarr", "--image-size", 224,
                    "--validation-fraction", 0.4, "--orientation", "as-stored")  # fmt: skip
    assert "was made with orientation upright, not as-stored" in refused.stderr
    for number, folder in enumerate(sorted((sideways / "train").iterdir())):
        folder.rename(folder.with_name(f"n0144076{number}"))
    assert index(sideways, tmp_path / "c.zarr") == "as-stored"
    assert index(sideways, tmp_path / "d.zarr", "--orientation", "upright") == "upright"


def test_the_store_holds_upright_images_and_says_so(sideways: Path, tmp_path: Path) -> None:
    words = ("--image-size", 224, "--validation-fraction", 0.4)
    store = open_store(make_store(sideways, tmp_path / "a.zarr", *words))
    assert store.upright
    found = {
        image.tobytes() for split in (store.train, store.val) for image in split.read(np.arange(len(split)))
    }
    # 224 pixels wide, so that no side is resized; a quarter to the right
    expected = {
        np.rot90(np.asarray(Image.open(path))[38 : 38 + 224], -1).tobytes()
        for path in sideways.rglob("*.jpg")
    }
    assert found == expected


def test_stores_from_before_there_was_a_choice_keep_their_identity() -> None:
    rows = table([Row("train/cat/1.jpg", -1, 0, 10, 0)])
    plan = Plan(
        kind="class folders", source="x", archives=(), classes=("cat",), class_names=None, image_size=256,
        shard_length=1024, draft=False, seed=2012, counts={"train": 1, "val": 1},
    )  # fmt: skip
    identity = with_identity(plan, {"train": rows, "val": rows}).identity
    assert identity == "3fe9963546ed2e5e3afdc54a8ef20c3ecca6cf0e1e7e7c49de5a9fce2e59e107"
