"""One private SLURM for all tests here, and a folder for each that looks like the project's."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import ROOT
from tests.slurm import private

PROJECT = ("Snakefile", "cluster", "preprocess", "profiles", "trainer")


@pytest.fixture(scope="session")
def running_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[private.Slurm]:
    try:
        with private.started(tmp_path_factory.mktemp("slurm")) as running:
            yield running
    except private.NotStartedError as reason:
        pytest.skip(f"no SLURM here: {reason}")


@pytest.fixture
def slurm(running_slurm: private.Slurm) -> Iterator[private.Slurm]:
    """The private SLURM; after each test its nodes are idle again."""
    yield running_slurm
    running_slurm.restore()


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """The project under another name, so that data/, runs/ and logs/ of the real one stay untouched."""
    for name in PROJECT:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path
