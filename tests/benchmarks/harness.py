"""Ours, peer and limit take turns; medians are compared. All figures are rates: more is faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Measure = Callable[[], float]


@dataclass(frozen=True, eq=False)  # compared by identity: rows that share a contender measure it once
class Contender:
    """Something that is measured. `measure` takes one turn and returns its figure, in the row's unit."""

    what: str
    measure: Measure


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    stage: str
    unit: str
    ours: Contender
    peer: Contender | None = None
    """What a user would pick instead."""
    limit: Contender | None = None
    """What no implementation can pass on this machine."""


def rate(
    work: float,
    function: Callable[[], object],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Measure:
    """A measure of how much work a second `function` does, `work` being what one call does.

    The first turn begins with a call that is not counted: it compiles, faults pages in, fills caches.
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
    """Everything that the rows compare, each once: ours, peer, limit, row after row."""
    named = (contender for row in rows for contender in (row.ours, row.peer, row.limit))
    return list(dict.fromkeys(contender for contender in named if contender is not None))


def medians(
    among: list[Contender], repeats: int, after_turn: Callable[[], object] = lambda: None
) -> dict[Contender, float]:
    """Give every contender one turn, then all of them the next, `repeats` times; the median of each.

    What slows the machine down for a while so falls on all of them alike.
    """
    figures: dict[Contender, list[float]] = {contender: [] for contender in among}
    for _ in range(repeats):
        for contender in among:
            figures[contender].append(contender.measure())
            after_turn()
    return {contender: statistics.median(found) for contender, found in figures.items()}


def result(row: Row, found: dict[Contender, float]) -> dict[str, Any]:
    """One entry of the JSON; null where there is no peer or no limit."""
    ours = found[row.ours]
    peer, limit = (found[c] if c else None for c in (row.peer, row.limit))
    return {
        "stage": row.stage,
        "ours": ours,
        "peer": peer,
        "limit": limit,
        "unit": row.unit,
        "of_peer": ours / peer if peer else None,
        "of_limit": ours / limit if limit else None,
        "ours_is": row.ours.what,
        "peer_is": row.peer.what if row.peer else None,
        "limit_is": row.limit.what if row.limit else None,
    }
