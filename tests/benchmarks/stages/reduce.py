"""The sum of one tower's gradients, 122 MB, over two pairs of ranks."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.harness import Contender, Row
from tests.benchmarks.processes import ranks
from tests.benchmarks.settings import Settings

RANKS = 4  # two pairs: the smallest number of ranks that reduces gradients


def rows(settings: Settings, scratch: Path) -> list[Row]:
    flat = Contender(
        "MPI_Allreduce in place of one flat float32 buffer of the same length, both towers at once",
        ranks(RANKS, "reduce", "flat", settings.steps),
    )
    return [
        Row(
            stage=f"reduce 2 pairs {dtype}",
            unit="GB/s",
            ours=Contender(
                "all_reduce_async of all stages, both towers at once; bfloat16 counts as float32",
                ranks(RANKS, "reduce", what, settings.steps),
            ),
            limit=flat,
        )
        for dtype, what in (("float32", "ours"), ("bfloat16", "bfloat16"))
    ]
