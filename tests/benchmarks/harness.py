"""Measure ours, peer, limit and units in turns; compare their medians. Figures are speeds: more is faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Measure = Callable[[], float]


@dataclass(frozen=True, eq=False)  # compared by identity: a contender of several rows is measured once
class Contender:
    """Something that is measured. `measure` takes one turn and returns its speed in the row's unit."""

    what: str
    measure: Measure


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    stage: str
    unit: str
    ours: Contender
    peer: Contender | None = None
    """The usual alternative."""
    limit: Contender | None = None
    """The best that a library or a plain loop does on this machine."""
    units: Contender | None = None
    """The speed of the processor's units or of its memory, which nothing exceeds."""


def rate(
    work: float,
    function: Callable[[], object],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Measure:
    """Make a measure of `function`: units of work a second, where one call does `work` units.

    A turn repeats the call for at least so many seconds. The first turn begins with a call that is not
    counted: it compiles, faults pages in and fills caches.
    """
    warm = False

    def measure() -> float:
        nonlocal warm
        if not warm:
            function()
            warm = True
        calls, begin = 0, clock()
        while True:
            function()
            calls += 1
            if (elapsed := clock() - begin) >= seconds:
                return work * calls / elapsed

    return measure


def contenders(rows: Iterable[Row]) -> list[Contender]:
    """List the contenders of all rows, each once: ours, peer, limit, units, row after row."""
    named = (contender for row in rows for contender in (row.ours, row.peer, row.limit, row.units))
    return list(dict.fromkeys(contender for contender in named if contender is not None))


def medians(
    among: list[Contender], repeats: int, after_turn: Callable[[], object] = lambda: None
) -> dict[Contender, float]:
    """Take `repeats` rounds, with one turn of every contender in each; return each contender's median.

    If other work slows the machine down for a while, it slows down all contenders alike.
    """
    figures: dict[Contender, list[float]] = {contender: [] for contender in among}
    for _ in range(repeats):
        for contender in among:
            figures[contender].append(contender.measure())
            after_turn()
    return {contender: statistics.median(found) for contender, found in figures.items()}


def result(row: Row, found: dict[Contender, float]) -> dict[str, Any]:
    """Make one entry of the JSON; null where there is no peer, no limit or no units."""
    entry: dict[str, Any] = {"stage": row.stage, "unit": row.unit}
    ours = found[row.ours]
    for name in ("ours", "peer", "limit", "units"):
        contender: Contender | None = getattr(row, name)
        entry[name] = found[contender] if contender else None
        entry[f"{name}_is"] = contender.what if contender else None
        if name != "ours":
            entry[f"of_{name}"] = ours / entry[name] if entry[name] else None
    return entry
