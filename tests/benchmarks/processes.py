"""Turns that take processes of their own, started anew each time: none is there while others are measured."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from tests.benchmarks.harness import Measure
from tests.launch import ROOT, run

WARM_UP = 5  # steps: the first ones also pay for memory, which the system clears page by page
TIMEOUT = 900  # seconds; a rank that waits for another must fail, not hang


def process(*command: str) -> Measure:
    """A measure that runs the command and takes the figure that it reports."""

    def measure() -> float:
        done = run(*command, cwd=ROOT, timeout=TIMEOUT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return float(json.loads(done.stdout.splitlines()[-1])["figure"])

    return measure


def worker(name: str, *arguments: object) -> Measure:
    """A process of workers/."""
    return process(sys.executable, "-m", f"tests.benchmarks.workers.{name}", *map(str, arguments))


def ranks(count: int, name: str, *arguments: object) -> Measure:
    """The same under mpirun."""
    module = f"tests.benchmarks.workers.{name}"
    return process("mpirun", "-n", str(count), sys.executable, "-m", module, *map(str, arguments))


def report(figure: float) -> None:
    """In the worker: the last line that it prints, as JSON."""
    print(json.dumps({"figure": figure}), flush=True)


def steps_per_second(step: Callable[[int], object], steps: int) -> float:
    """In the worker: so many steps after the first ones, which are not counted; on all ranks as many."""
    for number in range(WARM_UP):
        step(number)
    begin = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + steps):
        step(number)
    return steps / (time.perf_counter() - begin)
