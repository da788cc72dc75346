"""Start commands as a user does, with a hard time-out: a rank that waits for another must fail, not hang."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "cluster" / "constraints.txt"
"""The versions of all packages, for `pip install --constraint`."""

PYTEST = ("-m", "pytest", "--with-mpi", "-q", "-pno:cacheprovider", "-pno:hypothesispytest", "-pno:zarr")
"""pytest on each rank, without the plugins of other packages, which take a second to load."""

NETWORK = ("--filters", "6", "8", "12", "12", "8", "--hidden", "32")
"""The small network of all tests that start commands: a step of 16 images takes some milliseconds."""


def run(
    *command: str, cwd: Path, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process group of its own; the whole group ends with it."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(
            f"{' '.join(command)} took over {timeout} s\n{out[-4000:]}\n{err[-4000:]}"
        ) from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def ranks(count: int, *arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`mpirun -n count python ARGUMENTS`."""
    return run("mpirun", "-n", str(count), sys.executable, *arguments, cwd=cwd, timeout=timeout)


def unmapped_shared_memory() -> set[str]:
    """MPICH's segments that no process has mapped: 1 to 8 MB each, until the host starts anew."""
    names = {path.name for path in Path("/dev/shm").glob("mpich_shm_*")}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            text = maps.read_text()
            names -= {name for name in names if name in text}
    return names


def left_in_shared_memory(before: set[str]) -> set[str]:
    """The segments that were not there before and stay. A job that starts meanwhile has one for a moment."""
    until = time.monotonic() + 10
    while (left := unmapped_shared_memory() - before) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def exit_code(command: Callable[[], object]) -> int:
    """The code with which a command that is called in this process would end it."""
    try:
        command()
    except SystemExit as leaving:
        if isinstance(leaving.code, str):  # as Python itself does
            print(leaving.code, file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0
