"""The cost model beside the machine at hand: 1, 2 and 4 pairs that share its cores."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.benchmarks.harness import Contender, Row
from tests.benchmarks.processes import ranks
from tests.benchmarks.settings import Settings
from trainer.scaling import PARAMETERS

PRECISION = "bfloat16"
PAIRS = (1, 2, 4)


def rows(settings: Settings, scratch: Path) -> list[Row]:
    """Measured images a second beside the model's; the model is given one pair's step with two batches, which
    tell what a picture and what a step cost, and the rate of a reduction, each measured once."""
    batch, steps = settings.batch, settings.steps
    table = []
    for pairs in PAIRS:
        measured = Contender(
            "pairs of ranks that share the cores; the batch is the same for all of them together",
            ranks(2 * pairs, "ours", PRECISION, batch, steps),
        )
        predicted = Contender("the model's", lambda pairs=pairs: model(settings, pairs))
        table.append(Row(stage=f"scaling {pairs} pairs", unit="img/s", ours=measured, limit=predicted))
    return table


@functools.cache
def step_seconds(batch: int, steps: int) -> float:
    """Of one pair."""
    return batch / ranks(2, "ours", PRECISION, batch, steps)()


@functools.cache
def model(settings: Settings, pairs: int) -> float:
    """Cores are shared: each pair repeats what a step costs, pictures cost the same whoever takes them."""
    batch, steps = settings.batch, settings.steps
    whole, half = (step_seconds(n, steps) for n in (batch, batch // 2))
    of_step = max(0.0, 2 * half - whole)
    reduction = 0.0
    if pairs > 1:
        gigabytes = 4 * sum(PARAMETERS) / 1e9
        reduction = gigabytes / ranks(2 * pairs, "reduce", "flat", steps)()
    return batch / (whole + (pairs - 1) * of_step + reduction)
