"""Open MPI, next to the MPI of all other tests: parity, and the end of a job."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.launch import PYTEST, ROOT, run
from tests.openmpi import ENVIRONMENT
from tests.terminal import on_terminal
from tests.test_failure import LIMIT, SMALL, a_rank, wait_for


@pytest.fixture
def programs(openmpi: Path) -> Path:
    return openmpi / "bin"


def mpirun(programs: Path, size: int, *arguments: str) -> list[str]:
    return [str(programs / "mpirun"), "-n", str(size), str(programs / "python"), *arguments]


def test_two_pairs_equal_the_single_process(programs, tiny_store, monkeypatch):
    text = run(str(programs / "mpirun"), "--version", cwd=ROOT, **ENVIRONMENT).stdout
    assert "Open MPI" in text
    what = ("tests/mpi/test_parity.py", "-k", "training_equals and small-mpi")
    command = mpirun(programs, 4, *PYTEST, *what)
    done = run(*command, cwd=ROOT, timeout=240, **ENVIRONMENT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1 passed" in done.stdout
    assert "Open MPI" in done.stdout  # what pytest-mpi's header says of the library in use


@pytest.mark.parametrize("how", ["a rank is killed", "SIGUSR1"])
def test_the_end_of_a_job(how, programs, tiny_store, tmp_path):
    flags = ["--store", str(tiny_store), "--run", str(tmp_path / "run"), *SMALL, "--epochs", "100000"]
    command = mpirun(programs, 2, "-m", "trainer.run", *flags, "--checkpoint-every", "2")
    with (tmp_path / "output").open("w") as output:
        environment = {**os.environ, **ENVIRONMENT}
        job = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(tmp_path / "run" / "checkpoints" / "latest")
        if how == "SIGUSR1":
            job.send_signal(signal.SIGUSR1)
            assert job.wait(timeout=120) == 75, (tmp_path / "output").read_text()
        else:
            started = time.monotonic()
            os.kill(a_rank(job), signal.SIGKILL)
            assert job.wait(timeout=LIMIT) != 0
            assert time.monotonic() - started < LIMIT
        assert not (tmp_path / "run" / "complete").exists()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


@pytest.mark.parametrize("moment", ["imports", "steps"])
def test_ctrl_c_ends_all_ranks_at_once(moment, programs, tiny_store, tmp_path):
    flags = ["--store", str(tiny_store), "--run", str(tmp_path / "run"), *SMALL, "--epochs", "100000"]
    command = mpirun(programs, 2, "-m", "trainer.run", *flags, "--checkpoint-every", "2")
    with on_terminal(*command, cwd=tmp_path, **ENVIRONMENT) as terminal:
        terminal.wait_for(lambda: terminal.loads_torch(2))
        if moment == "steps":
            terminal.wait_for((tmp_path / "run" / "checkpoints" / "latest").exists)
        terminal.ctrl_c()
        # Its launcher sends the ranks SIGTERM, SIGKILL a quarter of a second later, and ends with a code of
        # its own.
        assert terminal.job.wait(timeout=LIMIT) == 1, terminal.output
        assert terminal.all_end()
    assert "Traceback" not in terminal.output


def test_an_odd_number_of_ranks_is_a_sentence(programs, tmp_path):
    done = run(*mpirun(programs, 3, "-m", "trainer.run"), cwd=tmp_path, timeout=60, **ENVIRONMENT)
    assert done.returncode != 0
    assert "3 ranks cannot be paired" in done.stderr
