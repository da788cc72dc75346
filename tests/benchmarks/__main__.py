"""`make bench`: measure the stages, print a table, write runs/bench.json and a figure.

python -m tests.benchmarks --help
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import get_args

import torch
import tyro

import preprocess.errors
import trainer.errors
from preprocess.shared import progress
from preprocess.shared.cores import available_cores
from tests.benchmarks import report
from tests.benchmarks.harness import Row, contenders, medians, result
from tests.benchmarks.settings import WHEN_ASKED, Settings, Stage


def bench(settings: Settings) -> report.Results:
    """Measure the stages one after the other, and write the JSON after each."""
    torch.set_num_threads(available_cores())
    results: report.Results = []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for stage in settings.stages or [stage for stage in get_args(Stage) if stage not in WHEN_ASKED]:
            results += measure(stage, settings, Path(scratch))
            report.write(settings.json, results)
    return results


def measure(stage: Stage, settings: Settings, scratch: Path) -> report.Results:
    """Measure one stage. Its memory is freed, and its idle workers end, when this returns."""
    rows: list[Row] = importlib.import_module(f"tests.benchmarks.stages.{stage}").rows(settings, scratch)
    among = contenders(rows)
    with closing(progress.counter(" turns", settings.repeats * len(among), stage)) as bar:
        found = medians(among, settings.repeats, lambda: bar.update(1))
    return [result(row, found) for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    try:
        settings = tyro.cli(
            Settings, prog="python -m tests.benchmarks", args=argv, config=(tyro.conf.OmitArgPrefixes,)
        )
        results = bench(settings)
    except (preprocess.errors.UserError, trainer.errors.UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    report.show(results)
    print(f"written to {settings.json}")
    picture = settings.json.with_suffix(".png")
    report.draw(picture, results)
    print(f"drawn in {picture}")


if __name__ == "__main__":
    main()
