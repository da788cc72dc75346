"""The flat tars of ImageNet that Hugging Face handed out: classes from the ends of names, nothing missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocess.containers import gzip
from preprocess.errors import UserError
from preprocess.plan import archives_folder
from preprocess.sources import blocks
from preprocess.sources.order import shuffled
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import images_of, tar

TRAIN = {
    0: {"n02_7_n02.JPEG": b"a" * 50, "n01_3_n01.JPEG": b"b" * 60},
    1: {"n01_5_n01.JPEG": b"c" * 70},
}
VAL = {"ILSVRC2012_val_00000293_n02.JPEG": b"d" * 80, "ILSVRC2012_val_00000002_n01.JPEG": b"e" * 90}


def long(members: dict[str, bytes]) -> dict[str, bytes]:
    """The members with wnids of nine characters."""
    for short, wnid in (("n01", "n01440764"), ("n02", "n02102040")):
        members = {name.replace(short, wnid): data for name, data in members.items()}
    return members


@pytest.fixture(params=["tar", "tar.gz"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As it was handed out, or decompressed."""
    data = tmp_path / "imagenet-1k/data"
    data.mkdir(parents=True)
    mode = "w:gz" if request.param == "tar.gz" else "w"
    for number, members in TRAIN.items():
        tar(data / f"train_images_{number}.{request.param}", long(members), mode)
    tar(data / f"val_images.{request.param}", long(VAL), mode)
    tar(data / f"test_images.{request.param}", {"ILSVRC2012_test_00000001.JPEG": b"f"}, mode)
    return data.parent


def test_classes_are_the_ends_of_the_names(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    for source in [recognise(place, archives_folder(store)) for place in (root, root / "data")]:
        assert source.classes == ("n01440764", "n02102040")
        assert [entry for entry in source.ignored if "test" not in entry] == []
        assert len(source.ignored) == 1
        assert [(wnid, data[:1]) for wnid, data in images_of(source, "train")] == [
            ("n01440764", b"b"),
            ("n01440764", b"c"),
            ("n02102040", b"a"),
        ]
        assert [(wnid, data[:1]) for wnid, data in images_of(source, "val")] == [
            ("n01440764", b"e"),
            ("n02102040", b"d"),
        ]


def test_images_of_a_compressed_tar_are_shuffled_in_blocks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1024)  # each image has a header of 512 bytes, and takes 512
    assert gzip.BLOCK == 2**25
    source = recognise(root)
    if not source.archives[0].endswith(".gz"):
        assert set(source.train["group"]) == {-1}
        return
    groups = {name.decode().partition("/")[2]: group for name, *_, group in source.train.tolist()}
    assert sorted(groups.values()) == [0, 1, 2]
    ordered = shuffled(source.train, np.random.default_rng(0))
    assert sorted(ordered.tolist()) == source.train.tolist()


def decompressed_too(root: Path) -> None:
    path = next(root.glob("data/val_images.*"))
    path.with_name("val_images.tgz").write_bytes(path.read_bytes())


def without_end(root: Path) -> None:
    tar(next(root.glob("data/train_images_0.*")), {"n01440764_1.JPEG": b"a"})


def without_a_class(root: Path) -> None:
    tar(next(root.glob("data/train_images_0.*")), {"n02102040_1_n02102040.JPEG": b"a"})
    next(root.glob("data/train_images_1.*")).unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (decompressed_too, r"holds both val_images\.tar.* and val_images\.tgz"),
        (without_end, r"holds n01440764_1\.JPEG, whose name does not end with a wnid"),
        (lambda root: next(root.glob("data/train_images_0.*")).unlink(), r"lacks train_images_0\.tar\.gz"),
        (
            without_a_class,
            r"ILSVRC2012_val_00000002_n01440764\.JPEG is of a class that has no image for training",
        ),
    ],
    ids=["twice", "no wnid", "a number is missing", "a class is missing"],
)
def test_an_incomplete_set_is_refused(spoil: Callable[[Path], object], sentence: str, root: Path) -> None:
    spoil(root)
    with pytest.raises(UserError, match=sentence):
        recognise(root)
