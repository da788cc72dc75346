"""Ends a job in which a rank hangs, and says which one.

A rank that is killed ends the others through the launcher. One that is stopped, or sits behind a dead cable,
leaves them waiting in an exchange for ever. So each rank marks what it is doing; a thread that finds no new
mark for the time-out asks all others, through a communicator of its own, what they are doing. Their threads
answer even while they wait. Whoever does not answer is named.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.errors import UserError
from trainer.parallel.topology import Topology

POLL = 0.5  # seconds between looks at the clock and at questions of others
PATIENCE = 5.0  # seconds for an answer; each thread looks every POLL
QUESTION, ANSWER = 1, 2
START_UP = 600.0  # seconds without a new mark until the first step is done: it may have loops to compile


class Doing(NamedTuple):
    """What a rank is at."""

    step: int
    phase: str
    waiting: bool
    """Whether that phase waits for another rank."""


class Watchdog:
    """One thread a rank; `alarm` gets a UserError, in that thread, when the time is over."""

    def __init__(self, topology: Topology, timeout: float, alarm: Callable[[UserError], None]) -> None:
        self._topology, self._timeout, self._alarm = topology, timeout, alarm
        self._limit, self._steps = max(timeout, START_UP), 0
        self._doing = Doing(0, "the start", False)
        self._marked = time.monotonic()
        self._over = threading.Event()
        self._comm = topology.world.Dup()
        self._sent: list[Any] = []
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if topology.world.size > 1:
            self._thread.start()

    def mark(self, phase: str, waiting: bool = False) -> None:
        """The rank has come to a new phase; costs a microsecond."""
        self._doing = Doing(self._doing.step, phase, waiting)
        self._marked = time.monotonic()

    def mark_step(self, step: int) -> None:
        """The rank has begun a step. Until the second one the time-out is that of the start."""
        self._steps += 1
        if self._steps > 1:
            self._limit = self._timeout
        self._doing = Doing(step, "the beginning", False)
        self._marked = time.monotonic()

    def close(self) -> None:
        """Stop watching; every rank calls it."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL):
            self._answer()
            if time.monotonic() - self._marked > self._limit:
                self._alarm(self._complaint(self._ask()))
                return

    def _answer(self) -> None:
        while self._comm.iprobe(tag=QUESTION):
            asker = self._comm.recv(tag=QUESTION)
            self._send((self._topology.rank, self._doing), asker, ANSWER)

    def _send(self, message: Any, to: int, tag: int) -> None:
        # A request keeps the message's memory alive until it has left.
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend(message, dest=to, tag=tag))

    def _ask(self) -> dict[int, Doing]:
        """What each rank that answers is doing, this one among them."""
        me, size = self._topology.rank, self._topology.world.size
        found = {me: self._doing}
        for other in range(size):
            if other != me:
                self._send(me, other, QUESTION)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and len(found) < size:
            self._answer()
            while self._comm.iprobe(tag=ANSWER):
                who, doing = self._comm.recv(tag=ANSWER)
                found[who] = doing
            time.sleep(POLL / 10)
        return found

    def _complaint(self, answers: dict[int, Doing]) -> UserError:
        mine = answers[self._topology.rank]
        silent = [r for r in range(self._topology.world.size) if r not in answers]
        busy = {r: d for r, d in answers.items() if not d.waiting}
        if silent:
            who = f"no answer from {self._names(silent)}: stopped, or the host is out of reach"
        elif busy:
            r, doing = min(busy.items(), key=lambda item: item[1].step)
            who = f"the others wait for {self._names([r])}, in {doing.phase} of step {doing.step}"
        else:
            who = "every rank waits for another"
        return UserError(
            f"No progress for {self._limit:g} s (--timeout) in {mine.phase} of step {mine.step}; {who}. "
            "The same command continues from the last checkpoint."
        )

    def _names(self, ranks: list[int]) -> str:
        named = [f"rank {r} on {self._topology.hosts[r]}" for r in ranks[:4]]
        return ", ".join(named) + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")
