"""The tests in mpi/, each world once: mpirun -n 2, 4 and 8 pytest."""

import pytest

from tests.launch import PYTEST, ROOT, ranks

ANY_WORLD = [
    f"tests/mpi/test_{name}.py"
    for name in ("parity", "twenty_steps", "transport", "topology", "evaluation", "divergence", "gpus")
]


@pytest.mark.parametrize(
    ("size", "what"),
    # Four ranks are the smallest world in which a tower has several.
    [(2, ANY_WORLD), (4, ["tests/mpi"]), (8, ANY_WORLD)],
    ids=["2", "4", "8"],
)
def test_all_ranks_pass(size, what, tiny_store, monkeypatch):
    monkeypatch.setenv("TINY_STORE", str(tiny_store))
    done = ranks(size, *PYTEST, *what, cwd=ROOT, timeout=800)
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
