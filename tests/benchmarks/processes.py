"""Turns that start new processes each time, so that none of them is there while others are measured."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from tests.benchmarks.harness import Measure
from tests.launch import ROOT, run

WARM_UP = 5  # steps that are not counted: in the first ones the system clears memory page by page
TIMEOUT = 900  # seconds, so that a rank that waits for ever fails


def process(*command: str) -> Measure:
    """Make a measure that runs the command and returns the figure that it reports."""

    def measure() -> float:
        done = run(*command, cwd=ROOT, timeout=TIMEOUT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return float(json.loads(done.stdout.splitlines()[-1])["figure"])

    return measure


def worker(name: str, *arguments: object) -> Measure:
    """Make a measure of a module in workers/."""
    return process(sys.executable, "-m", f"tests.benchmarks.workers.{name}", *map(str, arguments))


def ranks(count: int, name: str, *arguments: object) -> Measure:
    """Make a measure of a module in workers/ under mpirun."""
    module = f"tests.benchmarks.workers.{name}"
    return process("mpirun", "-n", str(count), sys.executable, "-m", module, *map(str, arguments))


def report(figure: float) -> None:
    """Print the figure as JSON. A worker calls this last."""
    print(json.dumps({"figure": figure}), flush=True)


def steps_per_second(step: Callable[[int], object], steps: int) -> float:
    """Time `steps` steps after WARM_UP steps. A worker calls this, with the same numbers on all ranks."""
    for number in range(WARM_UP):
        step(number)
    begin = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + steps):
        step(number)
    return steps / (time.perf_counter() - begin)
