"""Ablations: the error of the network without each part, next to the differences that the paper reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from preprocess.shared.files import write_atomically
from preprocess.store import Store
from trainer.errors import require_output
from trainer.experiments import runs
from trainer.experiments.arguments import Ablations as Arguments
from trainer.experiments.arguments import Part
from trainer.figures import style


@dataclass(frozen=True)
class Ablation:
    """One part that is left out, and the paper's number for it."""

    label: str
    flags: tuple[str, ...]
    """Flags of trainer.run that leave it out."""
    top1: float | None
    """Error that the paper adds without the part, percentage points; None where it gives no number."""
    top5: float | None
    source: str
    """Where the paper has the number."""


ABLATIONS: dict[Part, Ablation] = {
    "lrn": Ablation("without LRN", ("--no-lrn",), 1.4, 1.2, "section 3.3"),
    "overlap": Ablation("pooling without overlap", ("--no-overlap",), 0.4, 0.3, "section 3.4"),
    "dropout": Ablation("without dropout", ("--dropout", "0"), None, None, 'section 4.2: "overfitting"'),
    "colour": Ablation("without PCA colour", ("--color-std", "0"), 1.0, None, 'section 4.1: "over 1 %"'),
    "towers": Ablation("one tower", ("--towers", "1"), 1.7, 1.2, "section 3.2"),
    "crops": Ablation(
        "without random crops and flips",
        ("--no-crops", "--no-flips"),
        None,
        None,
        'section 4.1: "overfitting"',
    ),
    "relu": Ablation("tanh instead of ReLU", ("--activation", "tanh"), None, None, "section 3.1: slower"),
}
WHOLE = "whole"

Errors = Mapping[str, Sequence[tuple[float, float]]]
"""By part, or WHOLE: (top-1, top-5) error in percent for each seed, in the same order."""


def run(arguments: Arguments) -> None:
    """Train the runs that are not complete yet; write the table and the figure after each seed."""
    style.require_matplotlib()
    require_output(arguments.out / "ablations.json")
    store = runs.open_store(arguments)
    wanted = {seed: of_seed(arguments, seed, store) for seed in arguments.seeds}
    for each in wanted.values():  # all of them before hours are spent on the first
        for one in each.values():
            runs.require_same_run(one, store)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (WHOLE, *arguments.parts)}
    versions: set[str] = set()
    for seed, each in wanted.items():
        for name, one in each.items():
            runs.train(arguments, one)
            found[name].append(runs.last_errors(one))
            versions.add(runs.made_with(one))
        rows, images = compare(found, len(store.val)), len(store.val)
        record = {"seeds": arguments.seeds[: len(found[WHOLE])], "versions": sorted(versions), "rows": rows}
        write_atomically(arguments.out / "ablations.json", json.dumps(record, indent=1).encode())
        text = table(rows, found[WHOLE], images, sorted(versions))
        write_atomically(arguments.out / "ablations.md", text.encode())
        draw(rows, arguments.out)
        print(f"\nafter seed {seed}:\n\n{text}")
    print(f"the table and its figure: {arguments.out / 'ablations.md'}, ablations.png")


def of_seed(arguments: Arguments, seed: int, store: Store) -> dict[str, runs.Run]:
    """The run of the whole network, and one for each part."""
    flags: dict[str, tuple[str, ...]] = {WHOLE: ()}
    flags |= {name: ABLATIONS[name].flags for name in arguments.parts}
    return {name: runs.of_seed(arguments, name, seed, store, without) for name, without in flags.items()}


def compare(found: Errors, images: int) -> list[dict[str, Any]]:
    """A row for each part: the error added without it, here and in the paper, in percentage points.

    A seed's network without the part is compared with the same seed's whole one. images: of the validation
    set.
    """
    rows = []
    for name, errors in found.items():
        if name == WHOLE:
            continue
        ablation = ABLATIONS[cast(Part, name)]
        added = [(e[0] - w[0], e[1] - w[1]) for e, w in zip(errors, found[WHOLE], strict=True)]
        rows.append(
            {
                "part": name,
                "what": ablation.label,
                "top1_error": fmean(e[0] for e in errors),
                "top1_added": fmean(a[0] for a in added),
                "top5_added": fmean(a[1] for a in added),
                "top1_added_by_seed": [a[0] for a in added],
                "top1_chance": standard_error(
                    fmean(e[0] for e in errors), fmean(w[0] for w in found[WHOLE]), images
                ),
                "paper_top1_added": ablation.top1,
                "paper_top5_added": ablation.top5,
                "paper_where": ablation.source,
            }
        )
    return rows


def standard_error(one: float, other: float, images: int) -> float:
    """Standard error of the difference of two errors in percent, each measured on this number of images."""
    return 100 * math.sqrt(sum(e / 100 * (1 - e / 100) / images for e in (one, other)))


def table(
    rows: list[dict[str, Any]],
    whole: Sequence[tuple[float, float]],
    images: int,
    versions: Sequence[str] = (),
) -> str:
    """The rows as a Markdown table. whole: the errors of the network with all parts, for each seed."""

    def points(value: float | None) -> str:
        return "–" if value is None else f"{value:+.2f}"

    top1, top5 = (fmean(errors[k] for errors in whole) for k in (0, 1))
    seeds = "one seed" if len(whole) == 1 else f"mean of {len(whole)} seeds"
    lines = [
        f"The whole network: {top1:.2f} % top-1, {top5:.2f} % top-5 error, centre crop, "
        f"{images:,} validation images, after the last epoch, {seeds}.",
        "",
        "| left out | top-1, here | of each seed | ± | top-1, paper | top-5, here | top-5, paper | paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        each = " ".join(f"{a:+.1f}" for a in r["top1_added_by_seed"])
        lines.append(
            f"| {r['what']} | {points(r['top1_added'])} | {each} | {r['top1_chance']:.2f} "
            f"| {points(r['paper_top1_added'])} | {points(r['top5_added'])} "
            f"| {points(r['paper_top5_added'])} | {r['paper_where']} |"
        )
    lines += [
        "",
        "Percentage points of error that are added without the part. ± is the standard error by the size of "
        "the validation set alone; more seeds do not reduce it. The paper's numbers are for ImageNet.",
        *(["Versions: " + "; ".join(versions) + "."] if versions else []),
        "",
    ]
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write folder/ablations.png and .svg: the error added without each part, here and in the paper."""
    import matplotlib
    from matplotlib.patches import Patch

    with matplotlib.rc_context(cast(Any, style.SETTINGS)):
        figure = style.figure(0.8 + 0.42 * len(rows), "Top-1 error added without each part")
        axes = figure.subplots()
        for row, r in enumerate(rows):
            axes.barh(row - 0.18, r["top1_added"], 0.34, xerr=r["top1_chance"], color=style.BLUE)
            each = r["top1_added_by_seed"]
            axes.plot(each, [row - 0.18] * len(each), "o", color="black", markersize=2.5)
            if r["paper_top1_added"] is not None:
                axes.barh(row + 0.18, r["paper_top1_added"], 0.34, color=style.ORANGE)
        axes.set_yticks(range(len(rows)), [r["what"] for r in rows])
        axes.invert_yaxis()
        axes.axvline(0, color=style.GREY, linewidth=0.8)
        axes.set_xlabel("percentage points")
        handles = [Patch(color=c) for c in (style.BLUE, style.ORANGE)]
        labels = ["here, ± one standard error; a dot a seed", "paper, ImageNet"]
        axes.legend(handles, labels, loc="best")
        for kind in ("png", "svg"):
            style.write(figure, folder / f"ablations.{kind}")
