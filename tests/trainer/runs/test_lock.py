"""One job a run: a second one is told what runs, and whatever ended a job frees its run."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.launch import ROOT, run
from tests.test_failure import SMALL, training
from tests.trainer.in_process import train
from trainer.errors import UserError
from trainer.runs import lock
from trainer.runs.lock import RunLock

HOLDS = """
import sys, time
from pathlib import Path
from trainer.runs.lock import RunLock
held = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def written(folder: Path, **values) -> Path:
    """A lock's file, as another job of another host left it."""
    folder.mkdir(exist_ok=True)
    holds = {"host": "elsewhere", "process": 7, "process_started": "1", "since": "2026-01-01 00:00:00"}
    (folder / "lock").write_text(json.dumps(holds | values))
    return folder


def test_a_living_holder_is_named_and_a_killed_one_is_not_waited_for(holder, tmp_path):
    with pytest.raises(UserError, match=rf"process {holder.pid} on {socket.gethostname()} since"):
        RunLock(tmp_path / "run")
    holder.send_signal(signal.SIGSTOP)  # stopped is not dead
    with pytest.raises(UserError, match="is being trained"):
        RunLock(tmp_path / "run")
    holder.kill()
    holder.wait()
    RunLock(tmp_path / "run").release()


def test_released_nothing_is_left_and_no_empty_run_stays(tmp_path):
    held = RunLock(tmp_path / "run")
    assert not held.lost()
    held.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_run_that_is_removed_moved_or_taken_is_noticed(how, tmp_path):
    held = RunLock(tmp_path / "run")
    if how == "removed":
        (tmp_path / "run" / "lock").unlink()
    elif how == "moved":
        (tmp_path / "run").rename(tmp_path / "other")
    else:
        (tmp_path / "run" / "new").write_text("{}")
        (tmp_path / "run" / "new").replace(tmp_path / "run" / "lock")
    assert held.lost()
    held.release()
    assert (tmp_path / "run" / "lock").exists() == (how == "replaced")  # another's is not removed


def test_a_sign_of_life_from_another_host_refuses(tmp_path):
    folder = written(tmp_path / "run")
    over = threading.Event()

    def beat():
        while not over.wait(0.2):
            os.utime(folder / "lock")

    thread = threading.Thread(target=beat)
    thread.start()
    lines = []
    try:
        with pytest.raises(UserError, match="process 7 on elsewhere"):
            RunLock(folder, lines.append, silence=20)
    finally:
        over.set()
        thread.join()
    assert "waiting for a sign of life of process 7 on elsewhere" in lines[0]


def test_a_run_is_free_when_its_host_gives_no_sign_of_life(tmp_path):
    folder = written(tmp_path / "run")
    begin = time.monotonic()
    RunLock(folder, lambda line: None, silence=1.0).release()
    assert time.monotonic() - begin < 10
    folder = written(tmp_path / "run")
    os.utime(folder / "lock", (time.time() - 100, time.time() - 100))
    lines = []
    RunLock(folder, lines.append).release()
    assert lines == []  # its last sign of life is older than that already


@pytest.mark.parametrize(
    "content", ["[]", "null", '{"host": 3}', '{"host": "h"}', '{"host": "h", "process": "1"}', "{", "\udcff"]
)
def test_a_lock_that_no_job_can_have_written_is_free(content, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "lock").write_bytes(content.encode("utf-8", "surrogateescape"))
    RunLock(folder, lambda line: None, silence=60.0).release()


@pytest.mark.parametrize(
    ("mine", "theirs", "free"),
    [
        ({"SLURM_JOB_ID": "41", "SLURM_RESTART_COUNT": "1"}, {"slurm_job": "41", "slurm_restart": "0"}, True),
        ({"SLURM_JOB_ID": "41"}, {"slurm_job": "41", "slurm_restart": "0"}, False),
        ({}, {"slurm_job": "42"}, True),  # SLURM says that it is over
        ({}, {"slurm_job": "43"}, False),  # and that this one runs
        ({}, {"slurm_job": "44"}, True),  # and that it has forgotten it
    ],
)
def test_slurm_is_asked_whether_the_holders_job_is_over(mine, theirs, free, tmp_path, monkeypatch):
    """squeue's answers as those of SLURM 22 and 24; the real one is in tests/slurm."""
    squeue = tmp_path / "squeue"
    squeue.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--jobs=43*) echo 43;; *--jobs=44*) echo "slurm_load_jobs error: Invalid job id '
        'specified" >&2; exit 1;; esac\n'
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    folder = written(tmp_path / "run", **theirs)
    if free:
        RunLock(folder, lambda line: None).release()
    else:
        monkeypatch.setattr(RunLock, "_changed", lambda self: time.time())  # signs of life
        with pytest.raises(UserError, match="SLURM job 4"):
            RunLock(folder, lambda line: None)


@pytest.mark.parametrize("alive", [True, False])
def test_where_the_file_system_has_no_locks_the_process_is_looked_for(alive, tmp_path, monkeypatch):
    def lockf(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    started = lock._started(os.getpid())
    mine = {"host": socket.gethostname(), "process": os.getpid()}
    folder = written(tmp_path / "run", **mine, process_started=started if alive else "1")  # reused number
    if alive:
        with pytest.raises(UserError, match="is being trained"):
            RunLock(folder)
    else:
        RunLock(folder).release()


def test_a_second_job_on_a_running_run_is_told_so_and_the_first_goes_on(tiny_store, tmp_path, capsys):
    with training(2, tiny_store, tmp_path) as (job, output):
        second = ["mpirun", "-n", "2", sys.executable, "-m", "trainer.run"]
        second += ["--store", str(tiny_store), "--run", str(tmp_path / "run")]
        done = run(*second, cwd=tmp_path)
        assert done.returncode == 1
        assert "is being trained by process" in done.stderr
        assert done.stderr.count("error: ") == 1
        assert job.poll() is None, output.read_text()
        assert (tmp_path / "run" / "lock").exists()


def test_a_second_bare_command_says_what_runs(tiny_store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with training(1, tiny_store, tmp_path / "runs", name="auto-001"):
        same = (*SMALL, "--epochs", "100000", "--log-every", "1")
        done = run(sys.executable, "-m", "trainer.run", "--store", str(tiny_store), *same, cwd=tmp_path)
    assert done.returncode == 1
    assert "runs/auto-001 is being trained by process" in done.stderr
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["auto-001", "output"]


def test_a_start_that_is_refused_leaves_no_lock_and_no_folder(tiny_store, tmp_path, capsys):
    assert train(tiny_store, tmp_path / "run", "--resume", str(tmp_path / "none" / "step-00000001")) == 1
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
