"""What the live page shows of runs: it is read further at each call, once for all browsers."""

from __future__ import annotations

import json
import math
import threading
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.model.filter_measures import measure, warning
from trainer.runs import checkpoint, run_folder
from trainer.runs.filters import conv1_filters
from trainer.runs.log import LogReader, having

POINTS = 1000
"""The largest number of points of a curve on the page; more are averaged."""
PIECE = 2**21
"""Bytes of a log that are held at once."""
FRESH = 1.0
"""Seconds for which an answer is given again: a page asks every two seconds."""


class Curve:
    """The values that a log's lines have of several names, 8 bytes each."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._values = array("d")

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add the lines that have values of all names."""
        for line in having(lines, *self._names):
            self._values.extend(line[name] for name in self._names)

    def points(self) -> dict[str, list[float]]:
        """By name, at most POINTS values, each the mean of neighbouring lines."""
        table = np.frombuffer(self._values).reshape(-1, len(self._names))
        count = min(POINTS, len(table))
        if not count:
            return {name: [] for name in self._names}
        first = np.arange(count) * len(table) // count
        means = np.add.reduceat(table, first) / np.diff(first, append=len(table))[:, None]
        columns = means.T.tolist()
        return {name: [round(v, 6) for v in c] for name, c in zip(self._names, columns, strict=True)}


class LiveRun:
    """One run as its files are now."""

    def __init__(self, run: Path) -> None:
        self._run, self._log = run, LogReader(run / run_folder.LOG)
        self._begin()

    def _begin(self) -> None:
        """Nothing of the log was read yet."""
        self._last: dict[str, Any] = {}
        self._step: dict[str, Any] = {}
        self._start: dict[str, Any] = {}
        """The last line of all, the last one with a speed, and the last one of a start."""
        self._training = Curve("epoch", "loss", "lr", "images_per_second")
        self._validation = Curve("epoch", "val_top1_error", "val_top5_error")
        self._drawn: dict[str, Any] = {}
        """The points of both; empty when they must be computed."""
        self._measured: tuple[str | None, dict[str, Any]] = None, {}
        """A checkpoint's name and the measures of its filters."""

    def _read_on(self) -> None:
        """Read what is new in the log. Raises UserError."""
        grown = True
        while grown:
            anew, lines = self._log.read(most=PIECE)
            if anew:
                self._begin()
            grown = bool(lines)
            if grown:
                self._last = lines[-1]
                self._step = next(iter(having(lines[::-1], "images_per_second", "epoch")), self._step)
                self._start = next(iter(having(lines[::-1], "last_step")), self._start)
                self._training.add(lines)
                self._validation.add(lines)
                self._drawn = {}
        if not self._drawn:
            self._drawn = {"training": self._training.points(), "validation": self._validation.points()}

    def status(self) -> dict[str, Any]:
        """Everything that the page shows of the run. Raises UserError."""
        config = run_folder.read_config(self._run)
        self._read_on()
        complete = (self._run / run_folder.COMPLETE).exists()
        step, end, speed = (
            self._last.get("step", 0),
            self._start.get("last_step"),
            self._step.get("images_per_second"),
        )
        left = None
        if end is not None and speed:
            left = (end - step) * (config.optim.batch_size or 0) / speed
        written = self._last.get("time")
        newest = checkpoint.named(self._run / checkpoint.FOLDER, checkpoint.LATEST)
        return {
            "name": self._run.name,
            "recipe": config.recipe,
            "complete": complete,
            "step": step,
            "last_step": end,
            "epoch": self._step.get("epoch", 0),
            "epochs": config.optim.epochs,
            "images_per_second": speed,
            "seconds_left": 0 if complete else left if left is None or math.isfinite(left) else None,
            "seconds_since_line": None if written is None else round(time.time() - written, 1),
            "unreadable_lines": self._log.unreadable,
            "ranks": self._start.get("ranks"),
            "device": self._start.get("device"),
            "checkpoint": newest,
            "filters": self._filters(newest),
            **self._drawn,
        }

    def _filters(self, newest: str | None) -> dict[str, Any]:
        """Measures of the newest checkpoint's filters by tower, and a sentence if they have not formed."""
        if newest != self._measured[0]:
            folder = self._run / checkpoint.FOLDER / str(newest)
            measures = {name: measure(w) for name, w in conv1_filters(folder).items()} if newest else {}
            towers = {name: asdict(m) for name, m in measures.items()}
            self._measured = newest, {"towers": towers, "warning": warning(measures)}
        return self._measured[1]


class LiveRuns:
    """The runs of a page. Threads can share it."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self._runs = [(run, LiveRun(run)) for run in runs]
        self._lock = threading.Lock()
        self._body, self._made = b"", -math.inf

    def body(self) -> bytes:
        """The status of all runs as JSON, made at most every FRESH seconds; of a bad run, its error."""
        with self._lock:
            if time.monotonic() - self._made >= FRESH:
                found = [_status_or_error(path, run) for path, run in self._runs]
                self._body = json.dumps({"runs": found}, allow_nan=False).encode()
                self._made = time.monotonic()
            return self._body


def _status_or_error(path: Path, run: LiveRun) -> dict[str, Any]:
    try:
        return run.status()
    except (UserError, OSError) as error:
        return {"name": path.name, "error": str(error)}
