"""One rank's end is the end of all, within seconds, with that rank's message and a code that is not 0."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch import NETWORK, ranks, run
from tests.trainer.in_process import command, train

LIMIT = 30.0  # seconds, on a machine that is busy; two on one that is not

WAIT_FOR_THE_OTHERS = "world.Barrier()"
ENDS = {
    "exception": ("raise ValueError('rank two fell over')", "ValueError: rank two fell over"),
    "SystemExit": ("raise SystemExit(3)", ""),
    "thread": (
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); world.Barrier()",
        "ZeroDivisionError",
    ),
    "user's mistake": ("raise UserError('mend this.')", "mend this."),
}


@pytest.mark.parametrize(("kind", "size", "culprit"), [("exception", 2, 0), *((kind, 4, 2) for kind in ENDS)])
def test_a_rank_that_fails_takes_all_with_it(kind, size, culprit, tmp_path):
    act, message = ENDS[kind]
    program = (
        "import threading\n"
        "from trainer.parallel import ending\n"
        "from trainer.parallel.ending import MPI, abort_all_on_error\n"
        "from trainer.errors import UserError\n"
        "ending.ALONE = 0.5\n"  # seconds that it waits for the others to fail too
        "world = MPI.COMM_WORLD\n"
        "with abort_all_on_error():\n"
        "    world.Barrier()\n"
        f"    if world.rank == {culprit}:\n"
        f"        {act}\n"
        f"    {WAIT_FOR_THE_OTHERS}\n"
    )
    started = time.monotonic()
    done = ranks(size, "-c", program, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    # Starting Python and torch on all ranks comes on top.
    assert time.monotonic() - started < LIMIT + 5 * size


SMALL = ("--batch-size", "4", *NETWORK, "--no-figures")


@contextlib.contextmanager
def training(
    size: int,
    store: Path,
    folder: Path,
    *flags: str,
    name: str = "run",
    output: Path | None = None,
    program: tuple[str, str] = ("-m", "trainer.run"),
) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A run of `size` ranks without an end, once it has taken its first step; with its output."""
    command = [sys.executable, *program, "--store", str(store), "--run", str(folder / name)]
    command += [*SMALL, "--epochs", "100000", "--log-every", "1", *flags]
    if size > 1:
        command = ["mpirun", "-n", str(size), *command]
    output, metrics = output or folder / "output", folder / name / "metrics.jsonl"
    with output.open("w") as file:
        job = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while not (metrics.exists() and '"loss"' in metrics.read_text()) and time.monotonic() < until:
            assert job.poll() is None, output.read_text()
            time.sleep(0.02)
        yield job, output
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def a_rank(job: subprocess.Popen) -> int:
    """The process of the last of the ranks."""
    return [pid for pid, what in descendants(job.pid) if "trainer.run" in what and "mpirun" not in what][-1]


def wait_for(path: Path) -> None:
    until = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


def test_a_killed_rank_ends_the_training_and_the_run_goes_on_afterwards(tiny_store, tmp_path):
    with training(2, tiny_store, tmp_path, "--checkpoint-every", "2") as (job, _):
        wait_for(tmp_path / "run" / "checkpoints" / "latest")
        os.kill(a_rank(job), signal.SIGKILL)
        assert job.wait(timeout=LIMIT) != 0
    assert not (tmp_path / "run" / "complete").exists()

    step = int((tmp_path / "run" / "checkpoints" / "latest").read_text().rpartition("-")[2])
    done = command("run", "--run", tmp_path / "run", "--max-steps", step + 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"continuing from step {step}" in done.stdout + done.stderr
    assert (tmp_path / "run" / "complete").exists()


def test_a_rank_that_stops_answering_is_named_and_ends_the_training(tiny_store, tmp_path):
    limit, patience = 3, 1  # seconds; a phase's first time may take longer
    impatient = (
        "import trainer.run\n"  # by which a_rank finds it
        "from trainer.parallel import watchdog\n"
        f"watchdog.PATIENCE = {patience}\n"
        "trainer.run.main()\n"
    )
    with training(2, tiny_store, tmp_path, "--timeout", str(limit), program=("-c", impatient)) as (
        job,
        output,
    ):
        os.kill(a_rank(job), signal.SIGSTOP)
        assert job.wait(timeout=limit + patience + LIMIT) != 0
    assert f"No progress for {limit} s" in output.read_text()
    assert "no answer from rank 1 on" in output.read_text()


@pytest.mark.parametrize("how", ["SIGUSR1", "SIGTERM", "SIGHUP", "stop"])
def test_who_asks_it_to_stop_gets_a_checkpoint_and_the_code_for_more_to_do(how, tiny_store, tmp_path):
    run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"

    def ask() -> None:
        while not (metrics.exists() and '"loss"' in metrics.read_text()):
            time.sleep(0.02)
        if how == "stop":
            (run / "stop").touch()
        else:
            os.kill(os.getpid(), getattr(signal, how))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert train(tiny_store, run, "--epochs", "100000", "--log-every", "1") == 75
    asking.join()
    assert (run / "checkpoints" / "latest").exists()
    assert not (run / "complete").exists()
    assert (run / "stop").exists() == (how == "stop")  # a batch script must not queue it again


def test_a_file_named_save_saves_and_training_goes_on(tiny_store, tmp_path):
    with training(2, tiny_store, tmp_path) as (job, output):
        (tmp_path / "run" / "save").touch()
        until = time.monotonic() + 300
        while (tmp_path / "run" / "save").exists():  # removed once the checkpoint is complete
            assert time.monotonic() < until
            assert job.poll() is None, output.read_text()
        assert (tmp_path / "run" / "checkpoints" / "latest").exists()


def test_ranks_that_were_started_differently_are_refused(tiny_store, tmp_path):
    program = [sys.executable, "-m", "trainer.run", "--store", str(tiny_store), "--run", str(tmp_path / "r")]
    command = ["mpirun", "-n", "1", *program, *SMALL, ":", "-n", "1", *program, *SMALL, "--lr", "0.5"]
    done = run(*command, cwd=tmp_path)
    assert done.returncode != 0
    assert "must agree on --lr: rank 0 on" in done.stderr
    assert not (tmp_path / "r" / "config.json").exists()


def test_a_dying_network_is_told_so_with_the_remedy(tiny_store, tmp_path):
    flags = ("--store", tiny_store, "--run", tmp_path / "run", *SMALL, "--init-bias", "-100")
    done = command("run", *flags, "--log-every", "1", "--max-steps", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    # Biases of -100 silence every unit of conv2; fc8 is left with a bias of 0: ten classes alike.
    assert "The network is dying: 100 % of conv2's units" in text
    assert "the loss stays at ln 10 = 2.303" in text
    assert "--warmup-epochs" in text
    assert text.count("is dying") == 1


def descendants(pid: int) -> list[tuple[int, str]]:
    """All processes below one, with their command lines."""
    found = []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in map(int, children):
        command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        found += [(child, command), *descendants(child)]
    return found
