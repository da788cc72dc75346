"""Requests to a run while it trains: signals of the batch system, files of the user.

SIGUSR1, SIGTERM    save at the next step and end with exit code 75
SIGHUP              the same: the terminal was closed; under nohup it stays ignored
touch RUN/stop      the same, without signals
touch RUN/save      save at the next step and continue
"""

from __future__ import annotations

import signal
from enum import IntEnum
from pathlib import Path
from typing import Any


class Request(IntEnum):
    """Of several requests the largest is followed."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    FAIL = 3
    """Not a request: rank 0 can no longer write to the run's folder."""


class Requests:
    """Records signals from its construction on. Any rank may get one, or see a file first."""

    def __init__(self) -> None:
        self._signalled = False
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self._signalled = True

    @property
    def signalled(self) -> bool:
        """Whether a signal asked this process to stop."""
        return self._signalled

    def look(self, run: Path) -> Request:
        """The request that this rank knows of."""
        if self._signalled or (run / "stop").exists():
            return Request.STOP
        return Request.SAVE if (run / "save").exists() else Request.NOTHING

    @staticmethod
    def saved(run: Path) -> None:
        """Remove the file `save`, whose request is done."""
        (run / "save").unlink(missing_ok=True)

    @staticmethod
    def clear(run: Path) -> None:
        """Remove the files of requests to an earlier start."""
        for name in ("save", "stop"):
            (run / name).unlink(missing_ok=True)
