"""Ctrl-C, a closed terminal and a refused start, as a user does and sees them."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launch import left_in_shared_memory, ranks, run, unmapped_shared_memory
from tests.terminal import Terminal, on_terminal
from tests.test_failure import LIMIT, SMALL
from tests.trainer.in_process import command
from trainer.cli import one_sentence
from trainer.parallel import interrupt

CTRL_C = 130  # 128 + SIGINT

needs_handler = pytest.mark.skipif(
    interrupt._interrupt is None, reason="trainer/parallel/_interrupt.c is not built: pip install -e ."
)


def training(size: int, store: Path, folder: Path, *flags: str) -> list[str]:
    """A run of `size` ranks without an end."""
    command = [sys.executable, "-m", "trainer.run", "--store", str(store), "--run", str(folder / "run")]
    command += [*SMALL, "--epochs", "100000", "--log-every", "1", "--checkpoint-every", "2", *flags]
    return command if size == 1 else ["mpirun", "-n", str(size), *command]


def logged(run_: Path, text: str) -> Callable[[], bool]:
    log = run_ / "metrics.jsonl"
    return lambda: log.exists() and text in log.read_text()


def imports(seconds: float) -> Callable[[Terminal, Path], None]:
    """So long after the first library: others are loaded, MPI starts, loops are compiled."""
    return lambda terminal, run_: time.sleep(seconds)


def file(name: str) -> Callable[[Terminal, Path], None]:
    return lambda terminal, run_: terminal.wait_for(lambda: list(run_.glob(name)))


def line(text: str, seconds: float = 0) -> Callable[[Terminal, Path], None]:
    def come(terminal: Terminal, run_: Path) -> None:
        terminal.wait_for(logged(run_, text))
        time.sleep(seconds)

    return come


def a_rank_is_late(terminal: Terminal, run_: Path) -> None:
    """The other waits for it inside MPI_Init, where Python handles no signal."""
    late = terminal.ranks()[-1]
    os.kill(late, signal.SIGSTOP)
    time.sleep(4)
    threading.Timer(0.2, os.kill, (late, signal.SIGCONT)).start()


def a_rank_stops_in_steps(terminal: Terminal, run_: Path) -> None:
    """The others wait for it in an exchange."""
    line('"loss"')(terminal, run_)
    os.kill(terminal.ranks()[-1], signal.SIGSTOP)
    time.sleep(0.5)


MOMENTS = {
    "as torch is loaded": imports(0),
    "0.3 s later": imports(0.3),
    "1 s later": imports(1),
    "1.7 s later": imports(1.7),
    "before the first step": file("config.json"),
    "in the first steps": line('"loss"'),
    "while a checkpoint is written": file("checkpoints/.step-*.partial"),
    "in validation": line('"step": 15, "epoch"'),
    "after validation": line('"val_top1_error"', 0.1),
}
OF_ONE = ["as torch is loaded", "in the first steps", "while a checkpoint is written", "in validation"]
OF_FOUR = ["in the first steps"]  # where pairs exchange gradients; the rest is as with two
OF_TWO = {"while MPI starts": a_rank_is_late, "while others wait for a rank": a_rank_stops_in_steps}


def interrupted(size: int, store: Path, folder: Path, moment: str) -> str:
    """What is wrong with the end of a run that gets Ctrl-C then; nothing, if all is well."""
    folder.mkdir()
    with on_terminal(*training(size, store, folder), cwd=folder) as terminal:
        terminal.wait_for(lambda: terminal.loads_torch(size))
        (MOMENTS | OF_TWO)[moment](terminal, folder / "run")
        assert terminal.job.poll() is None, terminal.output
        before = len(terminal.output)
        terminal.ctrl_c()
        started = time.monotonic()
        try:
            code: int | str = terminal.job.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            code = f"none in {LIMIT} s"
        took, ended = time.monotonic() - started, terminal.all_end(2)
        text = terminal.output[before:]
        lines = text.count("interrupted")
        good = code == CTRL_C and ended and lines <= 1 and "Traceback" not in text and "BAD" not in text
        good = good and terminal.processes() == []
        return "" if good else f"{moment}: code {code} after {took:.1f} s, all ended: {ended}, {text!r}"


@needs_handler
@pytest.mark.parametrize("size", [1, 2, 4])
def test_ctrl_c_ends_all_ranks_at_once_at_any_moment(size, tiny_store, tmp_path):
    moments = {1: OF_ONE, 2: [*MOMENTS, *OF_TWO], 4: OF_FOUR}[size]
    with ThreadPoolExecutor(3) as pool:
        ends = pool.map(
            lambda n: interrupted(size, tiny_store, tmp_path / str(n), moments[n]), range(len(moments))
        )
        wrong = [end for end in ends if end]
    assert not wrong, "\n".join(wrong)


@needs_handler
@pytest.mark.parametrize("moment", ["0.3 s later", "in the first steps"])
def test_sigint_to_one_rank_ends_all(moment, tiny_store, tmp_path):
    with on_terminal(*training(2, tiny_store, tmp_path), cwd=tmp_path) as terminal:
        terminal.wait_for(lambda: terminal.loads_torch(2))
        MOMENTS[moment](terminal, tmp_path / "run")
        os.kill(terminal.ranks()[-1], signal.SIGINT)
        assert terminal.job.wait(timeout=LIMIT) == CTRL_C, terminal.output
        assert terminal.all_end(2)
    assert "Traceback" not in terminal.output


@needs_handler
def test_ctrl_c_ends_an_evaluation(small_run, tmp_path):
    command = ("mpirun", "-n", "2", sys.executable, "-m", "trainer.evaluate", "--run", str(small_run))
    with on_terminal(*command, cwd=tmp_path) as terminal:
        terminal.wait_for(lambda: terminal.loads_torch(2))
        time.sleep(1)
        terminal.ctrl_c()
        assert terminal.job.wait(timeout=LIMIT) == CTRL_C, terminal.output
        assert terminal.all_end(2)
    assert "Traceback" not in terminal.output
    assert "checkpoint" not in terminal.output  # nothing of an evaluation can go on


def test_signals_that_are_ignored_at_the_start_stay_ignored(tiny_store, tmp_path):
    # As a shell does with Ctrl-C for a command in the background of a script, and nohup with SIGHUP.
    command = ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh", *training(1, tiny_store, tmp_path)]
    with on_terminal(*command, cwd=tmp_path) as terminal:
        terminal.wait_for((tmp_path / "run" / "checkpoints" / "latest").exists)
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(terminal.job.pid, number)
        before = newest(tmp_path / "run")
        terminal.wait_for(lambda: newest(tmp_path / "run") > before + 10)


def finished(run_: Path) -> bool:
    return (run_ / "complete").exists()


def newest(run_: Path) -> int:
    """The step of the newest checkpoint."""
    return int((run_ / "checkpoints" / "latest").read_text().rpartition("-")[2])


def test_a_terminal_that_is_closed_leaves_a_checkpoint_of_the_last_step(tiny_store, tmp_path):
    run_ = tmp_path / "run"
    with on_terminal(
        *training(1, tiny_store, tmp_path, "--checkpoint-every", "1000000"), cwd=tmp_path
    ) as terminal:
        terminal.wait_for(logged(run_, '"loss"'))
        terminal.close()
        assert terminal.job.wait(timeout=120) == 75
    assert newest(run_) > 0
    assert not finished(run_)


@pytest.mark.parametrize("size", [1, 2])
def test_under_nohup_a_terminal_that_is_closed_changes_nothing(size, tiny_store, tmp_path):
    run_ = tmp_path / "run"
    # nohup leads standard output to a file only where it is a terminal: here to nohup.out.
    with on_terminal("nohup", *training(size, tiny_store, tmp_path), cwd=tmp_path) as terminal:
        terminal.wait_for((run_ / "checkpoints" / "latest").exists)
        terminal.close()
        before = newest(run_)
        terminal.wait_for(lambda: newest(run_) > before + 10)
        terminal.job.send_signal(signal.SIGUSR1)
        assert terminal.job.wait(timeout=120) == 75
    assert "Traceback" not in (tmp_path / "nohup.out").read_text()


def test_mpichs_mpirun_dies_with_its_terminal_and_the_run_goes_on_afterwards(tiny_store, tmp_path):
    # SIGHUP kills mpirun, and its proxy kills the ranks at once: they get no signal that they could obey.
    run_ = tmp_path / "run"
    with on_terminal(*training(2, tiny_store, tmp_path), cwd=tmp_path) as terminal:
        terminal.wait_for((run_ / "checkpoints" / "latest").exists)
        terminal.close()
        assert terminal.job.wait(timeout=LIMIT) == -signal.SIGHUP
        assert terminal.all_end()
    step = newest(run_)
    done = command("run", "--run", run_, "--max-steps", step + 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"continuing from step {step}" in done.stdout + done.stderr


def test_sighup_to_one_rank_has_all_of_them_save(tiny_store, tmp_path):
    run_ = tmp_path / "run"
    command = training(2, tiny_store, tmp_path, "--checkpoint-every", "1000000")
    with on_terminal(*command, cwd=tmp_path) as terminal:
        terminal.wait_for(logged(run_, '"loss"'))
        os.kill(terminal.ranks()[-1], signal.SIGHUP)
        assert terminal.job.wait(timeout=120) == 75, terminal.output
    assert newest(run_) > 0


def test_who_reads_the_output_may_go_away(tiny_store, tmp_path):
    command = " ".join(training(1, tiny_store, tmp_path, "--max-steps", "20"))
    done = run("bash", "-c", f"set -o pipefail; {command} 2>&1 | head -1", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert finished(tmp_path / "run")


REFUSALS = {  # others are in test_commands.py
    "a wrong value": (2, ("--lr", "0"), "--lr must be above 0"),
    "an unknown flag": (4, ("--batchsize", "3"), "--batchsize"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_start_leaves_no_shared_memory(kind, tiny_store, tmp_path):
    size, flags, sentence = REFUSALS[kind]
    before = unmapped_shared_memory()
    where = ("--store", str(tiny_store), "--run", str(tmp_path / "run"))
    started = time.monotonic()
    done = ranks(size, "-m", "trainer.run", *where, *flags, cwd=tmp_path)
    assert time.monotonic() - started < LIMIT + 5 * size
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "MPI_Abort" not in done.stderr  # all ranks refuse, so none has to end the others
    assert not left_in_shared_memory(before)


def test_other_settings_for_a_run_that_exists_leave_no_shared_memory(small_run, tiny_store, tmp_path):
    before = unmapped_shared_memory()
    where = ("--store", str(tiny_store), "--run", str(small_run))
    done = ranks(2, "-m", "trainer.run", *where, "--dropout", "0.3", cwd=tmp_path)
    assert done.returncode == 1
    assert "--dropout was 0.5, now 0.3" in done.stderr
    assert "MPI_Abort" not in done.stderr
    assert not left_in_shared_memory(before)


def test_a_killed_rank_leaves_no_shared_memory(tiny_store, tmp_path):
    before = unmapped_shared_memory()
    with on_terminal(*training(2, tiny_store, tmp_path), cwd=tmp_path) as terminal:
        terminal.wait_for(logged(tmp_path / "run", '"loss"'))
        os.kill(terminal.ranks()[-1], signal.SIGKILL)
        assert terminal.job.wait(timeout=LIMIT) != 0
    assert not left_in_shared_memory(before)


def test_ranks_that_refuse_alike_leave_with_the_largest_of_their_codes(tmp_path):
    program = (
        "from trainer.parallel.ending import MPI, abort_all_on_error\n"
        "from trainer.errors import UserError\n"
        "with abort_all_on_error():\n"
        "    if MPI.COMM_WORLD.rank == 0:\n"
        "        raise UserError('mend this.')\n"
        "    raise SystemExit(MPI.COMM_WORLD.rank + 1)\n"
    )
    done = ranks(2, "-c", program, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: mend this.\n"


@pytest.mark.parametrize("size", [1, 2])
def test_a_full_disk_is_one_sentence(size, tmp_path):
    program = (
        "from trainer.parallel.ending import MPI, abort_all_on_error\n"
        "with abort_all_on_error(resumable=True):\n"
        "    if MPI.COMM_WORLD.rank == 0:\n"
        "        open('/dev/full', 'w', buffering=1).write('a line of the log\\n')\n"
        "    MPI.COMM_WORLD.Barrier()\n"
    )
    done = ranks(size, "-c", program, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device; make room there and start the same command again" in done.stderr
    assert "it continues from the last checkpoint" in done.stderr
    assert done.stderr.count("error: ") == 1


REASONS = ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE"]


@pytest.mark.parametrize("name", REASONS)
def test_the_sentence_of_a_full_or_vanished_disk_names_the_path(name, capsys):
    with pytest.raises(SystemExit) as leaving, one_sentence():
        raise OSError(getattr(errno, name), "as the kernel says", "/data/runs/r/config.json")
    assert leaving.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("error: /data/runs/r/config.json ")
    assert os.strerror(getattr(errno, name)) in text
    assert text.count("\n") == 1


def test_any_other_oserror_keeps_its_traceback():
    with pytest.raises(OSError, match="as the kernel says"), one_sentence():
        raise OSError(errno.EBADF, "as the kernel says", "/data/x")
