"""Ctrl-C on a terminal: the stage says what stays, and neither it nor its workers show a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.preprocess.helpers import ROOT, stage


def test_ctrl_c_ends_a_stage_and_its_workers_in_a_sentence(imagenet: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    assert stage("index", "--imagenet", imagenet, "--store", store, "--image-size", 4000).returncode == 0
    command = [sys.executable, "-m", "preprocess.shard", "--store", store, "--workers", "2"]
    job = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert job.stdout is not None
    assert job.stdout.readline().startswith("workers: local")
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does, to all processes
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert errors == "interrupted: finished shards stay, and the same command goes on\n"


def test_ctrl_c_while_a_stage_imports_its_packages_shows_no_traceback() -> None:
    # the first package after preprocess itself is where the signal comes
    program = (
        "import os, runpy, signal, sys\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        "sys.orig_argv[1:] = ['-m', 'preprocess.index']\n"
        "runpy.run_module('preprocess.index', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""
