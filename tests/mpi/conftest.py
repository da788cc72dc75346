"""Inside mpirun: a failing rank ends the world, or the others would wait for it."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mpi4py import MPI

WORLD = MPI.COMM_WORLD


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    report = yield
    if report.failed and WORLD.size > 1:
        print(f"rank {WORLD.rank}: {item.name}\n{report.longreprtext}", file=sys.stderr, flush=True)
        WORLD.Abort(1)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests for more ranks than these are left to a larger world: they are not skipped."""
    needed = [next((m.kwargs["min_size"] for m in item.iter_markers("mpi")), 1) for item in items]
    config.hook.pytest_deselected(items=[i for i, n in zip(items, needed, strict=True) if n > WORLD.size])
    items[:] = [item for item, n in zip(items, needed, strict=True) if n <= WORLD.size]


@pytest.fixture(autouse=True)
def in_step() -> Iterator[None]:
    """No test begins before every rank has finished the one before.

    Who waits sleeps: MPI's own Barrier would take the core from rank 0, which computes what it compares with.
    """
    yield
    reached = WORLD.Ibarrier()
    while not reached.Test():
        time.sleep(0.001)
