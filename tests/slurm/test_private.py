"""The private SLURM leaves nothing behind."""

import contextlib
import subprocess
import sys
import time

import psutil

from tests.launch import ROOT
from tests.slurm.private import Slurm

SCRIPT = """
import sys
from pathlib import Path
from tests.slurm import private
with private.started(Path(sys.argv[1])) as slurm:
    slurm("sbatch", "--nodes=2", "--wrap=srun sleep 1000")
    print("submitted", flush=True)
    sys.stdin.read()
"""


def test_it_ends_with_the_tests_that_are_killed(slurm, tmp_path):
    other = Slurm(tmp_path)

    def running() -> set[str]:
        names = set()
        for process in other.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                names.add(process.name())
        return names

    everything = {"munged", "slurmctld", "slurmd", "slurmstepd", "srun", "sleep"}
    with subprocess.Popen(
        (sys.executable, "-c", SCRIPT, str(tmp_path)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as tests:
        try:
            assert tests.stdout is not None
            assert tests.stdout.readline() == b"submitted\n"
            until = time.monotonic() + 60
            while not everything <= running():
                assert time.monotonic() < until, f"{running()}\n{other.logs()}"
                time.sleep(0.1)
        finally:
            tests.kill()
    until = time.monotonic() + 30
    while left := running():
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.1)


def test_what_a_test_that_failed_leaves_is_put_right(running_slurm):
    running_slurm("sbatch", "--nodes=2", "--requeue", "--wrap=srun sleep 1000")
    running_slurm.kill_node("n2")
    running_slurm("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=died")
    running_slurm.restore()
    assert running_slurm.idle()
    assert not running_slurm("squeue", "--noheader").strip()
