"""Two commands that take turns of the same machine: while one runs, all processes of the other are stopped.

So each has all cores in its own turns, and a while in which the machine is slow is slow for both. What counts
is the time in which a command runs.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.launch import ROOT

LOOK = 0.1
"""Seconds between two looks at a runner's errors."""


@dataclass
class Runner:
    """A command that trains a network, and its validation errors with the time at which each was known."""

    what: str
    command: Sequence[str]
    read_errors: Callable[[], list[float]]
    """All validation errors that the command has written so far, 0..1, oldest first."""
    output: Path
    """What the command prints."""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """(seconds in which it ran, validation error)."""
    seconds: float = 0.0
    process: subprocess.Popen[bytes] | None = None

    def run(self, seconds: float) -> None:
        """Start the command, or let it go on, and stop it after so many seconds.

        Raises RuntimeError when it fails.
        """
        begin, before = time.perf_counter(), self.seconds
        if self.process is None:
            with self.output.open("wb") as out:
                self.process = subprocess.Popen(
                    self.command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
                )
        else:
            self.send(signal.SIGCONT)
        while True:
            code = self.process.poll()
            self.seconds = before + time.perf_counter() - begin
            self.curve += [(self.seconds, error) for error in self.read_errors()[len(self.curve) :]]
            if code:
                raise RuntimeError(f"{self.what} failed: {self.output.read_text()[-4000:]}")
            if code == 0 or self.seconds - before >= seconds:
                break
            time.sleep(LOOK)
        if code is None:
            self.send(signal.SIGSTOP)

    @property
    def ended(self) -> bool:
        """Whether the command is over."""
        return self.process is not None and self.process.poll() is not None

    def seconds_to(self, error: float) -> float | None:
        """The time in which it ran until its validation error was so low; None if it was not yet."""
        return next((seconds for seconds, reached in self.curve if reached <= error), None)

    def send(self, number: signal.Signals) -> set[psutil.Process]:
        """Send a signal to all processes of the command, also to those that are started meanwhile.

        Returns the processes.
        """
        sent: set[psutil.Process] = set()
        while new := self.processes() - sent:
            for process in new:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            sent |= new
        return sent

    def end(self) -> None:
        """Kill all processes of the command, and wait until they are gone."""
        if self.process is not None:
            killed = self.send(signal.SIGKILL)
            self.process.wait()
            psutil.wait_procs(killed, timeout=10)  # in a container without an init process they never go

    def processes(self) -> set[psutil.Process]:
        """All processes of the command; none before its start and after its end."""
        if self.process is None:
            return set()
        try:
            parent = psutil.Process(self.process.pid)
            return {parent, *parent.children(recursive=True)}
        except psutil.NoSuchProcess:
            return set()


def race(
    runners: Sequence[Runner], error: float, turn: float, longest: float, say: Callable[[str], None] = print
) -> None:
    """Let the runners take turns until each has reached the error, is over, or has run for `longest`.

    turn, longest: seconds. All processes are ended at the end.
    """
    told = {id(runner): 0 for runner in runners}
    try:
        while left := [
            r for r in runners if r.seconds_to(error) is None and not r.ended and r.seconds < longest
        ]:
            for runner in left:
                runner.run(turn)
                for seconds, reached in runner.curve[told[id(runner)] :]:
                    say(f"{runner.what}: {100 * reached:.1f} % after {seconds / 60:.1f} min")
                told[id(runner)] = len(runner.curve)
    finally:
        for runner in runners:
            runner.end()
