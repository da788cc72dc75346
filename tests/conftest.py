"""What all tests share: the worlds of MPI, and one small store made by the real commands."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch import ROOT, run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """A test that cannot run is skipped on a user's machine, and a failure where CI must run them all."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests in mpi/ run inside mpirun, started by test_mpi.py."""
    inside = config.getoption("--with-mpi") or config.getoption("--only-mpi")
    return True if collection_path.name == "mpi" and not inside else None


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of 60 + 30 pictures, which 4 or 8 ranks do not divide, made by `snakemake preprocess`."""
    folder = tmp_path_factory.mktemp("tiny")
    imagenet, store = folder / "imagenet", folder / "imagenet256.zarr"
    for command in (
        ["python", "-m", "preprocess.miniature", str(imagenet), "--train", "60", "--val", "30"],
        ["snakemake", "preprocess", "--config", f"imagenet={imagenet}", f"store={store}", "shard_length=16"],
    ):
        done = run(*command, cwd=ROOT, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    return store
