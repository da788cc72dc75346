"""Progress on stderr: a bar in a terminal or notebook, a whole line now and then in a file or a SLURM log."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Protocol

from tqdm import tqdm

from preprocess.shared import names

FIRST = 10.0
"""Least seconds between two lines of a log, and from the start to the first one."""
SHARE = 1 / 60
"""Least time between two lines as a share of the time so far: a log of five days has a few hundred lines."""

LINE = (
    "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left, "
    "{rate_fmt}{postfix}"
)


class Progress(Protocol):
    """Counts finished units and shows the count; tqdm has these methods."""

    def update(self, count: int) -> Any:
        """Add `count` units."""

    def set_postfix(self, *, refresh: bool = True, **values: Any) -> Any:
        """Show these values after the counts; at once with `refresh`."""

    def close(self) -> Any:
        """Show the final count."""


class _Lines:
    """Writes whole lines: a bar's carriage returns make a log unreadable."""

    def __init__(self, unit: str, total: int | None, initial: int, desc: str, leave: bool) -> None:
        self._unit, self._total, self._initial, self._desc, self._leave = unit, total, initial, desc, leave
        self._done = self._counted = initial
        self._postfix = ""
        self._start = self._shown = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown >= max(FIRST, SHARE * (now - self._start)):
            self._show(now)

    def set_postfix(self, *, refresh: bool = True, **values: Any) -> None:
        self._postfix = ", ".join(f"{name} {value}" for name, value in values.items())

    def close(self) -> None:
        if self._leave and self._done > self._counted:
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        # The rate since the line before: the first steps of a run compile, which makes them slow.
        rate = (self._done - self._counted) / max(now - self._shown, 1e-3)
        self._shown, self._counted = now, self._done
        text = tqdm.format_meter(
            self._done,
            self._total,
            now - self._start,
            initial=self._initial,
            rate=rate,
            prefix=self._desc,
            unit=self._unit,
            unit_scale=True,
            postfix=self._postfix,
            bar_format=LINE if self._total else None,  # without a total tqdm's own: count, time, rate
        )
        print(text, file=sys.stderr, flush=True)


class _Silent:
    """Shows nothing. Without tqdm's disabled bar, which starts a thread."""

    def update(self, count: int) -> None: ...

    def set_postfix(self, *, refresh: bool = True, **values: Any) -> None: ...

    def close(self) -> None: ...


def in_terminal() -> bool:
    """Whether stderr is a terminal with room for a bar; some, made by programs, are 0 columns wide."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:  # closed in between
        return False


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel, whose output shows a bar though it is no terminal."""
    kernel = sys.modules.get("IPython")
    shell = kernel.get_ipython() if kernel else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def counter(
    unit: str, total: int | None, desc: str, initial: int = 0, shown: bool = True, leave: bool = True
) -> Progress:
    """Show how many units are done, how long they took and how long the rest takes.

    Args:
        unit: such as "img" or "B"; counts get a prefix: 1.28M.
        total: units in all; None where it is unknown.
        desc: the beginning of the line.
        initial: units that were done before.
        shown: False for ranks that write nothing.
        leave: whether the end stays in the terminal or is written to the log.
    """
    if not shown:
        return _Silent()
    desc = names.shown(desc)
    if not (in_terminal() or in_notebook()):
        return _Lines(unit, total, initial, desc, leave)
    bar: Progress = tqdm(
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=True,
        desc=desc,
        leave=leave,
        smoothing=0.1,
        mininterval=0.5,
        dynamic_ncols=True,
    )
    return bar


def images(total: int, initial: int, desc: str, shown: bool = True, leave: bool = True) -> Progress:
    """A `counter` of images."""
    return counter("img", total, desc, initial, shown, leave)


def write(text: str) -> None:
    """Print a line on stdout, above a bar that may be shown."""
    tqdm.write(text)
