"""Progress where it is looked at: a bar in a terminal or a notebook, whole lines in a file or SLURM's log."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tqdm import tqdm

FIRST, SHARE = 10.0, 1 / 60
"""Seconds until a log's first line, and between two lines as a share of the time so far: a log of five days
has a few hundred lines."""


class Lines:
    """tqdm's figures, one line at a time: no carriage returns, which make a log unreadable."""

    def __init__(self, total: int, initial: int, desc: str) -> None:
        self._total, self._initial, self._desc = total, initial, desc
        self._done = self._counted = initial
        self._postfix = ""
        self._start = self._shown = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown >= max(FIRST, SHARE * (now - self._start)):
            self._show(now)

    def set_postfix(self, refresh: bool = True, **values: Any) -> None:
        self._postfix = ", ".join(f"{name} {value}" for name, value in values.items())

    def close(self) -> None:
        if self._done > self._counted:
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        # The rate since the line before: the first steps of a run compile, and are no measure of the rest.
        rate = (self._done - self._counted) / max(now - self._shown, 1e-3)
        self._shown, self._counted = now, self._done
        text = tqdm.format_meter(
            self._done,
            self._total,
            now - self._start,
            initial=self._initial,
            rate=rate,
            prefix=self._desc,
            unit="img",
            unit_scale=True,
            postfix=self._postfix,
            bar_format="{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}, {elapsed} gone, "
            "{remaining} left, {rate_fmt}{postfix}",
        )
        print(text, file=sys.stderr, flush=True)


class Silent:
    """For the ranks that do not speak."""

    def update(self, count: int) -> None: ...

    def set_postfix(self, refresh: bool = True, **values: Any) -> None: ...

    def close(self) -> None: ...


def in_terminal() -> bool:
    """Whether stderr is a terminal with room for a bar; some, made by programs, are 0 columns wide."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:  # closed in between
        return False


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel, whose output takes a bar though it is no terminal."""
    kernel = sys.modules.get("IPython")
    shell = kernel.get_ipython() if kernel else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def pictures(total: int, initial: int, desc: str, speaks: bool) -> Any:
    """Something with `update`, `set_postfix` and `close` that counts pictures."""
    if not speaks:
        return Silent()
    if not (in_terminal() or in_notebook()):
        return Lines(total, initial, desc)
    return tqdm(
        total=total,
        initial=initial,
        unit="img",
        unit_scale=True,
        desc=desc,
        smoothing=0.1,
        mininterval=0.5,
        dynamic_ncols=True,
    )
