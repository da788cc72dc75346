"""Ends a job in which a rank hangs, and names that rank.

When a rank is killed, the launcher ends the others. When a rank is stopped or its network is cut, the others
would wait in an exchange for ever. So each rank records the phase that it is in. A thread that sees no new
phase within the time-out asks all other ranks for theirs, over a communicator of its own; their threads
answer even while the ranks wait. The ranks that do not answer are named.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.errors import UserError
from trainer.parallel.topology import Topology

POLL = 0.5  # seconds between two looks at the clock and at questions of other ranks
PATIENCE = 5.0  # seconds that an answer is waited for; each thread looks every POLL seconds
QUESTION, ANSWER = 1, 2
START_UP = 600.0  # seconds of the time-out until the first step is done, which may compile loops


class Doing(NamedTuple):
    """The phase that a rank is in."""

    step: int
    phase: str
    waiting: bool
    """Whether that phase waits for another rank."""


class Watchdog:
    """One thread a rank; `alarm` is called with a UserError, in that thread, after the time-out."""

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
        """The rank enters a new phase; takes a microsecond."""
        self._doing = Doing(self._doing.step, phase, waiting)
        self._marked = time.monotonic()

    def mark_step(self, step: int) -> None:
        """The rank begins a step. Until the second one the time-out is START_UP at least."""
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
        # The request keeps the message's memory until it is sent.
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend(message, dest=to, tag=tag))

    def _ask(self) -> dict[int, Doing]:
        """The phase of each rank that answers, and of this one."""
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
        missing = [r for r in range(self._topology.world.size) if r not in answers]
        busy = {r: d for r, d in answers.items() if not d.waiting}
        if missing:
            who = f"no answer from {self._names(missing)}: stopped, or the host is out of reach"
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
