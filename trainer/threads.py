"""Work that C does without Python's lock, divided among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

Ends = list[tuple[int, int]]


def ends(length: int, parts: int, unit: int = 1) -> Ends:
    """Where each of so many parts begins and ends: whole units, but for the last one."""
    units = -(-length // unit)
    at = [min(length, units * part // parts * unit) for part in range(parts + 1)]
    return list(pairwise(at))


def each(work: Callable[[int], None], parts: int) -> None:
    """Call `work` with 0 to parts - 1, each in a thread of its own; raise what the first of them raised."""
    if parts == 1:
        work(0)
    else:
        list(_threads(parts).map(work, range(parts)))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="arithmetic")
