"""The tests in mpi/, each world once: mpirun -n 2, 4 and 8 pytest."""

import pytest

from tests.launch import ROOT, ranks


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("size", "transport", "what"),
    [
        (2, "mpi", "tests/mpi"),
        (4, "mpi", "tests/mpi"),
        (8, "mpi", "tests/mpi"),
        (2, "torch", "tests/mpi"),
        (4, "torch", "tests/mpi/test_parity.py"),
    ],
)
def test_all_ranks_pass(size, transport, what, tiny_store, monkeypatch):
    monkeypatch.setenv("TINY_STORE", str(tiny_store))
    monkeypatch.setenv("TEST_TRANSPORT", transport)
    pytest_ = ("-m", "pytest", "--with-mpi", "-q", "-p", "no:cacheprovider")
    done = ranks(size, *pytest_, what, cwd=ROOT, timeout=540)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
