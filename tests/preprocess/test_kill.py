"""SIGKILL and a full disk: finished shards stay, and the same command finishes the store."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.preprocess.helpers import content, settings, snakemake
from tests.preprocess.soak import finished_shards, soak


def test_after_a_kill_finished_shards_stay_and_the_store_is_the_same(tmp_path: Path) -> None:
    assert soak(tmp_path, kills=2, seed=1, images=200) >= 1  # a moment may come after the end


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with too little room for a store."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    if done.returncode:
        pytest.skip(f"no small disk can be made here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.privileged
def test_a_full_disk_is_reported_and_the_same_command_then_finishes(
    imagenet: Path, store: Path, small_disk: Path
) -> None:
    full = small_disk / "full.zarr"
    run = snakemake(*settings(imagenet, full))
    assert run.returncode != 0
    assert "error: shards could not be written, remove the cause and run again" in run.stderr
    assert "No space left on device" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(full.rglob("*.partial"))
    before = finished_shards(full)
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    again = snakemake(*settings(imagenet, full))
    assert again.returncode == 0, again.stderr
    assert content(full) == content(store)
    assert {path: path.stat().st_mtime_ns for path in before} == before
