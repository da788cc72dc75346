"""The same training with several seeds: its errors, its time and its filters, each with its spread."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from statistics import fmean, stdev
from typing import Any

from preprocess.shared.cores import processor
from preprocess.shared.files import write_atomically
from trainer.errors import require_output
from trainer.experiments import runs
from trainer.experiments.arguments import Repeat as Arguments
from trainer.figures import curves, style
from trainer.model import filter_measures
from trainer.runs import checkpoint, summary
from trainer.runs.filters import conv1_filters

COLUMNS = {
    "top1_error": ("top-1", 2),
    "top5_error": ("top-5", 2),
    "ten_crop_top1_error": ("top-1, ten crops", 2),
    "ten_crop_top5_error": ("top-5, ten crops", 2),
    "minutes": ("minutes", 1),
    "images_per_second": ("img/s", 0),
    "correlation": ("correlation", 2),
    "colour_a": ("colour, tower a", 2),
    "colour_b": ("colour, tower b", 2),
}
"""Key of a row -> its column in the table, and digits after the point."""


def run(arguments: Arguments) -> None:
    """Train and evaluate the runs that are not complete yet; write the table and the figure after each."""
    style.require_matplotlib()
    require_output(arguments.out / "repeat.json")
    store = runs.open_store(arguments)
    wanted = {seed: runs.of_seed(arguments, "", seed, store) for seed in arguments.seeds}
    for one in wanted.values():
        runs.require_same_run(one, store)
    rows: list[dict[str, Any]] = []
    for seed, one in wanted.items():
        runs.train(arguments, one)
        rows.append({"seed": seed, **measures(one), **_ten_crops(runs.ten_crop_errors(arguments, one))})
        versions = sorted({runs.made_with(each) for each in list(wanted.values())[: len(rows)]})
        record = {"flags": one.flags, "versions": versions, "machine": processor(), "rows": rows}
        write_atomically(arguments.out / "repeat.json", json.dumps(record, indent=1).encode())
        text = table(rows, len(store.val), one.settings.optim.epochs or 0, versions)
        write_atomically(arguments.out / "repeat.md", text.encode())
        logs = {f"seed {row['seed']}": runs.log(wanted[row["seed"]]) for row in rows}
        paths = [arguments.out / f"repeat.{kind}" for kind in ("png", "svg")]
        style.save(partial(curves.together, logs), paths)
        print(f"\n{text}")
    print(f"the table and its figure: {arguments.out / 'repeat.md'}, repeat.png")


def measures(run: runs.Run) -> dict[str, Any]:
    """Errors in percent after the last epoch, time, and the measures of conv1's filters in each tower."""
    (top1, top5), log = runs.last_errors(run), runs.log(run)
    found = {
        name: filter_measures.measure(w)
        for name, w in conv1_filters(checkpoint.find(run.folder)[0].path).items()
    }
    filters = sum(m.filters for m in found.values())
    return {
        "top1_error": top1,
        "top5_error": top5,
        "minutes": summary.seconds(log) / 60,
        "images_per_second": summary.images_per_second(log),
        "correlation": sum(m.correlation * m.filters for m in found.values()) / filters,
        **{f"colour_{name}": m.colour for name, m in found.items()},
    }


def _ten_crops(errors: tuple[float, float]) -> dict[str, float]:
    return {"ten_crop_top1_error": errors[0], "ten_crop_top5_error": errors[1]}


def table(rows: Sequence[dict[str, Any]], images: int, epochs: int, versions: Sequence[str] = ()) -> str:
    """The rows as a Markdown table, with their mean and standard deviation."""
    names = [name for name in COLUMNS if all(row.get(name) is not None for row in rows)]
    lines = [
        f"{epochs} epochs, {images:,} validation images; errors in % after the last epoch.",
        "",
        "| seed | " + " | ".join(COLUMNS[name][0] for name in names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]

    def add(label: object, values: Sequence[float]) -> None:
        cells = (f"{value:.{COLUMNS[name][1]}f}" for name, value in zip(names, values, strict=True))
        lines.append(f"| {label} | " + " | ".join(cells) + " |")

    for row in rows:
        add(row["seed"], [row[name] for name in names])
    if len(rows) > 1:
        add("mean", [fmean(row[name] for row in rows) for name in names])
        add("standard deviation", [stdev(row[name] for row in rows) for name in names])
    lines += [
        "",
        "Correlation: of neighbouring weights of conv1's filters, 0 for noise. Colour: its mean share in a "
        "tower's filters, 0 for grey.",
        *(["Versions: " + "; ".join(versions) + "."] if versions else []),
        "",
    ]
    return "\n".join(lines)
