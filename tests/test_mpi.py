"""The tests in mpi/, each world once: mpirun -n 2, 4 and 8 pytest."""

import pytest

from tests.launch import ROOT, ranks


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_all_ranks_pass(size, tiny_store, monkeypatch):
    monkeypatch.setenv("TINY_STORE", str(tiny_store))
    done = ranks(
        size, "-m", "pytest", "--with-mpi", "-q", "-p", "no:cacheprovider", "tests/mpi", cwd=ROOT, timeout=540
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
