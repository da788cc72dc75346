"""Shards are read back while others are made, and `verify --unread` does not read them again."""

import argparse
import shutil
from pathlib import Path

import pytest

from preprocess import verify
from preprocess.errors import UserError
from preprocess.plan import SPLITS, load_plan, record_path, work_folder
from preprocess.shard import make_all
from preprocess.shards.layout import shard_path
from preprocess.shards.readback import ReadBack
from preprocess.shards.records import Record, finished_record
from tests.preprocess.helpers import SHARD_LENGTH, SIZE, content, make_store, stage

SETTINGS = ("--image-size", SIZE, "--shard-length", SHARD_LENGTH)


@pytest.fixture(scope="module")
def finished_store(imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of this module's own, which each test leaves undamaged. A copy would not count as read back."""
    made = tmp_path_factory.mktemp("readback") / "made.zarr"
    return make_store(imagenet, made, *SETTINGS)


def flip(path: Path, at: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)


def test_a_shard_that_was_read_back_is_not_read_again_until_it_changes(
    finished_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []

    def counted(store: Path, plan: object, shard: tuple[str, int], *rest: object) -> str:
        read.append(shard)
        return ""

    monkeypatch.setattr(verify, "damage", counted)
    plan = load_plan(finished_store)
    every = {(split, shard) for split in SPLITS for shard in range(plan.shards(split))}

    def verified(unread: bool) -> set[tuple[str, int]]:
        read.clear()
        verify.verify(argparse.Namespace(store=finished_store, workers=2, sha256=False, unread=unread))
        return set(read)

    assert verified(unread=True) == set()
    assert verified(unread=False) == every
    path = shard_path(finished_store, "train", 1)
    path.write_bytes(path.read_bytes())  # the same bytes, but a new state of the file
    assert verified(unread=True) == {("train", 1)}
    known = work_folder(finished_store) / "read-back.json"
    whole = known.read_bytes()
    known.write_bytes(whole[: len(whole) // 2])
    assert verified(unread=True) == every
    known.write_bytes(whole)


def test_damage_after_the_read_back_is_found_by_verify(finished_store: Path) -> None:
    before = content(finished_store)
    path = shard_path(finished_store, "train", 2)
    flip(path, 1000)
    run = stage("verify", "--store", finished_store, "--unread")
    assert run.returncode == 1
    assert f"{path} has changed since it was written, in " in run.stderr
    plan = load_plan(finished_store)
    make_store(Path(plan.source), finished_store, *SETTINGS)
    assert content(finished_store) == before


def test_a_copy_does_not_count_as_read_back(finished_store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished_store, tmp_path / "copy.zarr"))
    assert ReadBack(finished_store).unchanged("train", 0)
    assert not ReadBack(copy).unchanged("train", 0)
    assert not ReadBack(finished_store).unchanged("train", 99)


def test_a_disk_that_returns_other_bytes_is_named_and_the_shard_made_again(
    finished_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan(finished_store)
    record_path(finished_store, "train", 1).unlink()  # so that this shard is made
    read = ReadBack.read

    def damage_and_read(self: ReadBack, split: str, shard: int, record: Record) -> bool:
        flip(shard_path(finished_store, split, shard), 77)
        return read(self, split, shard, record)

    arguments = argparse.Namespace(workers=1, dask="local", dask_address="")
    with monkeypatch.context() as bad:
        bad.setattr(ReadBack, "read", damage_and_read)
        with pytest.raises(
            UserError, match=r"train shard 1 \(the disk returns other bytes than were written"
        ):
            make_all(finished_store, plan, arguments)
    assert finished_record(finished_store, plan, "train", 1) is None
    make_all(finished_store, plan, arguments)
    assert finished_record(finished_store, plan, "train", 1)
    assert ReadBack(finished_store).unchanged("train", 1)
