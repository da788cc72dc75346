"""Inside mpirun: a failing rank ends the world, or the others would wait for it."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from mpi4py import MPI


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report = yield
    if report.failed and MPI.COMM_WORLD.size > 1:
        print(f"rank {MPI.COMM_WORLD.rank}: {item.name}\n{report.longreprtext}", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)
    return report


@pytest.fixture(autouse=True)
def in_step() -> Iterator[None]:
    """No test begins before every rank has finished the one before."""
    yield
    MPI.COMM_WORLD.Barrier()
