"""Ends a job in which a rank hangs, and names that rank.

When a rank is killed, the launcher ends the others. When a rank is stopped or its network is cut, the others
would wait in an exchange for ever. So each rank records the phase that it is in. A thread that sees no new
phase within the time-out asks all other ranks for theirs, over a communicator of its own; their threads
answer even while the ranks wait. The ranks that do not answer are named.

A phase that a rank is in for the first time may compile loops or wait for a slow disk. As long as all ranks
answer and one of them is in such a phase, the time-out is FIRST_TIME.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.errors import UserError
from trainer.parallel.topology import Topology

POLL = 0.5  # seconds between two looks at the clock and at questions of other ranks
PATIENCE = 10.0  # seconds that an answer is waited for; each thread looks every POLL seconds
QUESTION, ANSWER = 1, 2
FIRST_TIME = 600.0  # seconds of the time-out while a rank is in a phase for the first time


class Doing(NamedTuple):
    """The phase that a rank is in."""

    step: int
    phase: str
    waiting: bool
    """Whether that phase waits for another rank."""
    first: bool
    """Whether the rank computes in that phase for the first time."""


class Watchdog:
    """One thread a rank; `alarm` is called with a UserError, in that thread, after the time-out."""

    def __init__(self, topology: Topology, timeout: float, alarm: Callable[[UserError], None]) -> None:
        self._topology, self._timeout, self._alarm = topology, timeout, alarm
        self._doing = Doing(0, "the start", waiting=False, first=True)
        self._ended: set[str] = set()
        """Names of the phases that this rank has left."""
        self._marked = time.monotonic()
        self._over = threading.Event()
        self._comm = topology.world.Dup()
        self._sent: list[Any] = []
        self._questions = 0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if topology.world.size > 1:
            self._thread.start()

    def mark(self, phase: str, waiting: bool = False) -> None:
        """The rank enters a new phase; takes a microsecond."""
        self._enter(self._doing.step, phase, waiting)

    def mark_step(self, step: int) -> None:
        """The rank begins a step."""
        self._enter(step, "the beginning", False)

    def _enter(self, step: int, phase: str, waiting: bool) -> None:
        self._ended.add(self._doing.phase)
        self._doing = Doing(step, phase, waiting, first=not waiting and phase not in self._ended)
        self._marked = time.monotonic()

    def close(self) -> None:
        """Stop watching; every rank calls it."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        asked = 0.0
        while not self._over.wait(POLL):
            self._answer()
            marked = self._marked
            if time.monotonic() - max(marked, asked) <= self._timeout:
                continue
            answers, asked = self._ask(), time.monotonic()
            if self._marked != marked:  # it went on meanwhile
                continue
            everyone = len(answers) == self._topology.world.size
            may_take_longer = everyone and any(doing.first for doing in answers.values())
            limit = max(self._timeout, FIRST_TIME) if may_take_longer else self._timeout
            if asked - marked > limit:
                self._alarm(self._complaint(answers, limit))
                return

    def _answer(self) -> None:
        while self._comm.iprobe(tag=QUESTION):
            asker, number = self._comm.recv(tag=QUESTION)
            self._send((self._topology.rank, number, self._doing), asker, ANSWER)

    def _send(self, message: Any, to: int, tag: int) -> None:
        # The request keeps the message's memory until it is sent.
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend(message, dest=to, tag=tag))

    def _ask(self) -> dict[int, Doing]:
        """The phase of each rank that answers, and of this one."""
        me, size = self._topology.rank, self._topology.world.size
        found = {me: self._doing}
        self._questions += 1
        for other in range(size):
            if other != me:
                self._send((me, self._questions), other, QUESTION)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and len(found) < size:
            self._answer()
            while self._comm.iprobe(tag=ANSWER):
                who, number, doing = self._comm.recv(tag=ANSWER)
                if number == self._questions:  # not a late answer to an earlier question
                    found[who] = doing
            time.sleep(POLL / 10)
        return found

    def _complaint(self, answers: dict[int, Doing], limit: float) -> UserError:
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
            f"No progress for {limit:g} s (--timeout) in {mine.phase} of step {mine.step}; {who}. "
            "The same command continues from the last checkpoint."
        )

    def _names(self, ranks: list[int]) -> str:
        named = [f"rank {r} on {self._topology.hosts[r]}" for r in ranks[:4]]
        return ", ".join(named) + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")
