"""The tests in mpi/, each world once: mpirun -n 2, 4 and 8 pytest."""

import pytest

from tests.launch import ROOT, ranks

ALL = ("tests/mpi",)
OF_TRANSPORT = ("tests/mpi/test_parity.py", "tests/mpi/test_twenty_steps.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("size", "transport", "what"),
    [
        (2, "mpi", ALL),
        (4, "mpi", ALL),
        (8, "mpi", ALL),
        (2, "torch", OF_TRANSPORT),
        (4, "torch", OF_TRANSPORT[:1]),
    ],
    ids=["2-mpi", "4-mpi", "8-mpi", "2-torch", "4-torch"],
)
def test_all_ranks_pass(size, transport, what, tiny_store, monkeypatch):
    monkeypatch.setenv("TINY_STORE", str(tiny_store))
    monkeypatch.setenv("TEST_TRANSPORT", transport)
    pytest_ = ("-m", "pytest", "--with-mpi", "-q", "-p", "no:cacheprovider")
    done = ranks(size, *pytest_, *what, cwd=ROOT, timeout=540)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


LEAVES = """
import sys, time
from trainer.parallel.topology import init_topology
from trainer.parallel.connect import connect

topology = init_topology("cpu")
held = connect(topology, "torch")
time.sleep(2 if topology.rank == int(sys.argv[1]) else 0)
"""


@pytest.mark.parametrize("last", [0, 1])
def test_ranks_that_leave_torch_at_different_times_leave_no_file_behind(last, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = ranks(2, "-c", LEAVES, str(last), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
