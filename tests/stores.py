"""Small stores for tests, made by the real commands."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from preprocess import plan
from tests.launch import ROOT, run
from tests.preprocess.helpers import make_store


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills once for all processes of pytest-xdist; tests must not change it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, ready = root / name, root / f"{name}.ready"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            folder.mkdir()
            make(folder)
            ready.touch()
    return folder


def make_tiny_store(folder: Path) -> Path:
    """Make a store of 60 + 30 images by `snakemake preprocess`. 4 or 8 ranks do not divide these numbers."""
    imagenet, store = folder / "imagenet", folder / "imagenet256.zarr"
    for command in (
        ["python", "-m", "preprocess.miniature", str(imagenet), "--train", "60", "--val", "30"],
        ["snakemake", "preprocess", "--config", f"imagenet={imagenet}", f"store={store}", "shard_length=16"],
    ):
        done = run(*command, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
    return store


def make_store_of_size(side: int, imagenet: Path, store: Path) -> Path:
    """Make a store of an image size that `snakemake preprocess` now refuses, as earlier versions did."""
    with mock.patch.object(plan, "IMAGE_SIZES", (1, 4096)):
        return make_store(imagenet, store, f"--image-size={side}", "--shard-length=16")
