"""The sum of one tower's gradients, 122 MB, over two pairs of ranks."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.harness import Contender, Row
from tests.benchmarks.processes import ranks
from tests.benchmarks.settings import Settings

RANKS = 4  # two pairs: the smallest world in which gradients travel


def rows(settings: Settings, scratch: Path) -> list[Row]:
    return [
        Row(
            stage="reduce 2 pairs",
            unit="GB/s",
            ours=Contender(
                "the transport's start_reduce of all stages, both towers at once",
                ranks(RANKS, "reduce", "ours", settings.steps),
            ),
            limit=Contender(
                "MPI_Allreduce in place of one flat buffer as long, both towers at once",
                ranks(RANKS, "reduce", "flat", settings.steps),
            ),
        )
    ]
