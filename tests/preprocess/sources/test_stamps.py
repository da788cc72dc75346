"""A source that has changed since its store was made: the store's line says so."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.plan import Plan
from preprocess.sources.stamps import changed_place, write_stamps
from preprocess.sources.tables import Row, table
from tests.preprocess.helpers import draw, encode, make_store, stage, tar

CLASS = "photos/train/cat"


def add(root: Path) -> None:
    (root / CLASS / "new.jpg").write_bytes(b"")


def remove(root: Path) -> None:
    (root / CLASS / "1.jpg").unlink()


def add_class(root: Path) -> None:
    (root / "photos/train/dog").mkdir()


def take_away(root: Path) -> None:
    (root / "photos").rename(root / "moved")


def nothing(root: Path) -> None:
    """Leave all as it is."""


@pytest.mark.parametrize(
    ("change", "told"), [(add, True), (remove, True), (add_class, True), (take_away, False), (nothing, False)]
)
def test_a_change_of_folders_is_told(change: Callable[[Path], None], told: bool, tmp_path: Path) -> None:
    (tmp_path / CLASS).mkdir(parents=True)
    for path in (tmp_path / CLASS, tmp_path / "photos/train"):
        (path / "1.jpg").write_bytes(b"")
    for path in (tmp_path / CLASS, tmp_path / "photos/train", tmp_path / "photos"):
        os.utime(path, ns=(0, 0))  # or a change within the clock's tick would not be seen
    found = Plan(
        kind="class folders", source=str(tmp_path / "photos"), archives=(), classes=("cat",),
        class_names=None, image_size=256, shard_length=1024, draft=False, seed=2012,
        counts={"train": 1, "val": 0},
    )  # fmt: skip
    rows = table([Row("train/cat/1.jpg", -1, 0, 0, 0)])
    write_stamps(tmp_path / "a.zarr", found, {"train": rows, "val": rows[:0]})
    change(tmp_path)
    assert bool(changed_place(tmp_path / "a.zarr")) == told


def test_a_replaced_archive_is_told_when_the_finished_store_is_described(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", {f"train/cat/{n}.jpg": encode(draw(n, 230, 230)) for n in range(4)})
    store = make_store(archive, tmp_path / "a.zarr", "--image-size", 224, "--validation-fraction", 0.5)
    assert "has changed since" not in stage("store", "--store", store).stdout
    os.utime(archive, ns=(0, 0))
    sentence = f"; {archive} has changed since: to take that in, remove {store} or name another store=PATH"
    assert sentence in stage("store", "--store", store).stdout
