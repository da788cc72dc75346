"""The cost model compared with this machine: 1, 2 and 4 pairs that share its cores."""

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
    """Compare measured images a second with the model's.

    The model gets one pair's step at two batch sizes, from which the cost of an image and of a step follow,
    and the speed of a reduction. Each is measured once.
    """
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
    """Measure the seconds of one pair's step."""
    return batch / ranks(2, "ours", PRECISION, batch, steps)()


@functools.cache
def model(settings: Settings, pairs: int) -> float:
    """Predict images a second. The pairs share the cores.

    Each pair adds the fixed cost of a step. An image costs the same in any pair.
    """
    batch, steps = settings.batch, settings.steps
    whole, half = (step_seconds(n, steps) for n in (batch, batch // 2))
    of_step = max(0.0, 2 * half - whole)
    reduction = 0.0
    if pairs > 1:
        gigabytes = 4 * sum(PARAMETERS) / 1e9
        reduction = gigabytes / ranks(2 * pairs, "reduce", "flat", steps)()
    return batch / (whole + (pairs - 1) * of_step + reduction)
