"""The watchdog of a start has a time-out of its own, and sees rank 0 look at the disk."""

import time

import pytest
from mpi4py import MPI

from trainer.parallel import watchdog
from trainer.parallel.topology import init_topology
from trainer.parallel.watchdog import Watchdog

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_until_the_second_step_the_start_has_a_time_out_of_its_own(steps, monkeypatch):
    """Rank 0 sits in its look at the disk, or in a step, for longer than the time-out."""
    monkeypatch.setattr(watchdog, "START_UP", 60.0)
    heard = []
    dog = Watchdog(init_topology("cpu"), 0.2, lambda error: heard.append(str(error)))
    dog.mark("rank 0's look at the run's folder", waiting=WORLD.rank > 0)
    for step in range(steps):
        dog.mark_step(step)
    time.sleep(3 * watchdog.POLL)
    deadline = time.monotonic() + 30
    while steps == 2 and not heard and time.monotonic() < deadline:
        time.sleep(0.05)
    WORLD.Barrier()
    dog.close()
    assert bool(heard) == (steps == 2)


def test_the_start_is_watched_and_the_slow_disk_named(monkeypatch):
    """Rank 1 alone runs out of patience: a job that really hangs ends with the first rank that does."""
    monkeypatch.setattr(watchdog, "START_UP", 0.5 if WORLD.rank == 1 else 600.0)
    heard = []
    dog = Watchdog(init_topology("cpu"), 0.1, lambda error: heard.append(str(error)))
    dog.mark("rank 0's look at the run's folder", waiting=WORLD.rank > 0)
    deadline = time.monotonic() + 60
    while WORLD.rank == 1 and not heard and time.monotonic() < deadline:
        time.sleep(0.05)
    WORLD.Barrier()  # the others' watchdogs answer while they wait here
    dog.close()
    if WORLD.rank == 1:
        assert "No progress for 0.5 s" in heard[0]
        assert "the others wait for rank 0 on" in heard[0]
        assert "in rank 0's look at the run's folder" in heard[0]
