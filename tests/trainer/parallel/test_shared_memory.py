"""Too little /dev/shm, in which MPICH's ranks of a host meet, or too few open files: a sentence, no crash."""

import shutil
import subprocess
import sys

import pytest

from tests.launch import ROOT


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("options", "free"),
    [("size=1m", "1.05 MB"), ("size=16m", "16.8 MB"), ("ro", "0 B")],
    ids=["1m", "16m", "ro"],
)
def test_too_little_shared_memory_is_a_sentence(options, free):
    launcher = shutil.which("mpirun")
    mounted = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("this kernel does not allow mounting a disk")
    command = f"{mounted} && {launcher} -n 2 {sys.executable} -c 'import trainer.parallel.mpi'"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    sentence = f"error: /dev/shm has {free} free, and 2 ranks of a host need 17.8 MB there; make it larger"
    assert done.stderr.count(sentence) == 1, done.stderr
    assert "Bus error" not in done.stdout + done.stderr


def test_too_few_open_files_are_a_sentence():
    command = f"ulimit -n 24; {shutil.which('mpirun')} -n 2 {sys.executable} -c 'import trainer.parallel.mpi'"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    sentence = "error: 2 ranks of a host need 66 open files, and this process may have 24: allow more (ulimit"
    assert done.stderr.count(sentence) == 1, done.stderr


def test_enough_shared_memory_is_not_refused():
    done = subprocess.run(
        [shutil.which("mpirun"), "-n", "2", sys.executable, "-c", "import trainer.parallel.mpi"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
