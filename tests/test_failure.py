"""One rank's end is the end of all, within seconds, with that rank's message and a code that is not 0."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch import ranks

LIMIT = 10.0  # seconds

WAIT_FOR_THE_OTHERS = "world.Barrier()"
ENDS = {
    "exception": ("raise ValueError('rank two fell over')", "ValueError: rank two fell over"),
    "SystemExit": ("raise SystemExit(3)", ""),
    "thread": (
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); world.Barrier()",
        "ZeroDivisionError",
    ),
    "user's mistake": ("raise UserError('mend this.')", "error: mend this."),
}


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize(("size", "culprit"), [(2, 0), (4, 2)])
def test_a_rank_that_fails_takes_all_with_it(kind, size, culprit, tmp_path):
    act, message = ENDS[kind]
    program = (
        "import threading\n"
        "from trainer.topology import MPI, all_or_none\n"
        "from trainer.errors import UserError\n"
        "world = MPI.COMM_WORLD\n"
        "with all_or_none():\n"
        "    world.Barrier()\n"
        f"    if world.rank == {culprit}:\n"
        f"        {act}\n"
        f"    {WAIT_FOR_THE_OTHERS}\n"
    )
    started = time.monotonic()
    done = ranks(size, "-c", program, cwd=tmp_path, timeout=60)
    assert done.returncode != 0
    assert message in done.stderr
    # Starting Python and torch on all ranks comes on top.
    assert time.monotonic() - started < LIMIT + 5 * size


def test_a_killed_rank_ends_the_training_and_the_run_goes_on_afterwards(tiny_store, tmp_path):
    command = (
        *("mpirun", "-n", "2", sys.executable, "-m", "trainer.run", "--store", str(tiny_store)),
        *(
            "--run",
            str(tmp_path / "run"),
            "--batch-size",
            "4",
            "--checkpoint-every",
            "2",
            "--max-steps",
            "40",
        ),
        *("--filters", "6", "8", "12", "12", "8", "--hidden", "32", "--epochs", "100"),
    )
    latest = tmp_path / "run" / "checkpoints" / "latest"
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < until and job.poll() is None:
            time.sleep(0.02)
        assert latest.exists(), (tmp_path / "log").read_text()
        victim = next(p for p in descendants(job.pid) if "trainer.run" in p[1] and "mpirun" not in p[1])
        os.kill(victim[0], signal.SIGKILL)
        code = job.wait(timeout=LIMIT)
    assert code != 0
    assert not (tmp_path / "run" / "complete").exists()

    done = ranks(2, *command[4:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stdout + done.stderr
    assert (tmp_path / "run" / "complete").exists()


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_signal_saves_and_leaves_with_the_code_for_more_to_do(name, tiny_store, tmp_path):
    command = (
        *(sys.executable, "-m", "trainer.run", "--store", str(tiny_store), "--run", str(tmp_path / "run")),
        *("--batch-size", "4", "--filters", "6", "8", "12", "12", "8", "--hidden", "32", "--epochs", "1000"),
        *("--log-every", "1"),
    )
    log = tmp_path / "run" / "metrics.jsonl"
    with (tmp_path / "log").open("w") as output:
        job = subprocess.Popen(command, stdout=output, stderr=output)
        until = time.monotonic() + 120
        while not (log.exists() and log.read_text()) and time.monotonic() < until and job.poll() is None:
            time.sleep(0.02)
        job.send_signal(getattr(signal, name))
        code = job.wait(timeout=30)
    assert code == 75, (tmp_path / "log").read_text()
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
    assert not (tmp_path / "run" / "complete").exists()


def descendants(pid: int) -> list[tuple[int, str]]:
    """All processes below one, with their command lines."""
    found = []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in map(int, children):
        command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        found += [(child, command), *descendants(child)]
    return found
