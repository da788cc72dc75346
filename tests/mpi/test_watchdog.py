"""The watchdog's verdicts: what it waits for, what ends a job, and which rank it names."""

import time
from collections.abc import Callable

import pytest
from mpi4py import MPI

from trainer.parallel import watchdog
from trainer.parallel.topology import init_topology
from trainer.parallel.watchdog import Doing, Watchdog

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)

TIMEOUT = 0.3  # seconds
LATER = "another phase"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watchdog, "POLL", 0.05)
    monkeypatch.setattr(watchdog, "FIRST_TIME", 600.0)


def watched(work: Callable[[Watchdog], None], *, until_heard: bool) -> list[str]:
    """What rank 1's watchdog reports after `work`, which leaves each rank in some phase."""
    heard: list[str] = []
    timeout = TIMEOUT if WORLD.rank == 1 else 600.0
    dog = Watchdog(init_topology("cpu"), timeout, lambda error: heard.append(str(error)))
    work(dog)
    deadline = time.monotonic() + (30 if until_heard else 4 * TIMEOUT)
    while WORLD.rank == 1 and time.monotonic() < deadline and not (until_heard and heard):
        time.sleep(0.01)
    WORLD.Barrier()  # the others' watchdogs answer while they wait here
    dog.close()
    return heard


def others_wait(dog: Watchdog, phase: str) -> None:
    dog.mark(phase if WORLD.rank == 0 else "an exchange", waiting=WORLD.rank > 0)


def again(dog: Watchdog, phase: str) -> None:
    for name in (phase, LATER, phase):
        others_wait(dog, name)


def test_a_phase_that_a_rank_is_in_for_the_first_time_may_compile():
    assert watched(lambda dog: others_wait(dog, "the forward pass of stage 1"), until_heard=False) == []


def test_the_first_time_has_a_limit_too(monkeypatch):
    monkeypatch.setattr(watchdog, "FIRST_TIME", 2 * TIMEOUT)
    heard = watched(lambda dog: others_wait(dog, "rank 0's look at the run's folder"), until_heard=True)
    if WORLD.rank == 1:
        assert f"No progress for {2 * TIMEOUT:g} s (--timeout) in an exchange" in heard[0]
        assert "the others wait for rank 0 on" in heard[0]
        assert "in rank 0's look at the run's folder of step 0" in heard[0]


def test_a_rank_that_stays_in_a_phase_that_it_knows_is_named():
    heard = watched(lambda dog: again(dog, "the forward pass of stage 1"), until_heard=True)
    if WORLD.rank == 1:
        assert f"No progress for {TIMEOUT:g} s (--timeout) in an exchange" in heard[0]
        assert "the others wait for rank 0 on" in heard[0]
        assert "in the forward pass of stage 1 of step 0" in heard[0]


def test_of_several_busy_ranks_the_one_furthest_behind_is_named():
    def work(dog: Watchdog) -> None:
        for step in (4, 5, 7 if WORLD.rank else 6):
            dog.mark_step(step)

    heard = watched(work, until_heard=True)
    if WORLD.rank == 1:
        assert "the others wait for rank 0 on" in heard[0]
        assert "in the beginning of step 6" in heard[0]


def test_ranks_that_all_wait_for_each_other_are_reported():
    heard = watched(lambda dog: dog.mark("an exchange", waiting=True), until_heard=True)
    if WORLD.rank == 1:
        assert "in an exchange of step 0; every rank waits for another." in heard[0]


def test_a_rank_that_does_not_answer_is_named_even_at_the_start(monkeypatch):
    monkeypatch.setattr(watchdog, "PATIENCE", 0.5)
    if WORLD.rank == 0:
        monkeypatch.setattr(Watchdog, "_answer", lambda self: None)
    heard = watched(lambda dog: others_wait(dog, "building the network"), until_heard=True)
    if WORLD.rank == 1:
        assert "no answer from rank 0 on" in heard[0]
        assert f"No progress for {TIMEOUT:g} s" in heard[0]


def test_progress_while_the_others_are_asked_ends_the_suspicion(monkeypatch):
    asked = []

    def no_answer_but_progress(dog: Watchdog) -> dict[int, Doing]:
        asked.append(dog)
        dog.mark("an exchange", waiting=True)
        return {}

    monkeypatch.setattr(Watchdog, "_ask", no_answer_but_progress)
    heard = watched(lambda dog: others_wait(dog, "building the network"), until_heard=False)
    if WORLD.rank == 1:
        assert asked
        assert heard == []
