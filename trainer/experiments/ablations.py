"""Ablations: the error of the network without each part, next to the differences that the paper reports.

Each row is a run of `trainer.run` with one part left out, in its own folder, and is resumed like any run. A
run that exists already must have the settings and the store of this command.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from preprocess.shared.files import write_atomically
from preprocess.store import Store
from trainer.cli import parse
from trainer.config import Config
from trainer.data.batches import open_training_data
from trainer.errors import UserError, require_output
from trainer.experiments.arguments import Ablations as Arguments
from trainer.experiments.arguments import Part
from trainer.experiments.same_settings import cannot_continue, require_same_settings
from trainer.figures import style
from trainer.recipes import RECIPES, settle
from trainer.runs import run_folder
from trainer.runs.log import having, read_log


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
}


def run(arguments: Arguments) -> None:
    """Train the runs that are not complete yet, then write the table and the figure."""
    style.require_matplotlib()
    require_output(arguments.out / "ablations.json")
    store = open_training_data(arguments.store)
    images = len(store.val)
    if not images:
        raise UserError(f"{arguments.store} has no validation images: there is no error to compare.")
    folders = {name: arguments.out / name for name in ("whole", *arguments.parts)}
    for name, folder in folders.items():  # all of them before hours are spent on the first
        require_same_run(folder, settings(arguments, name), store)
    found = {}
    for name, folder in folders.items():
        if not (folder / run_folder.COMPLETE).exists():
            train(arguments, folder, name)
        found[name] = last_errors(folder)
    rows = compare(found, images)
    write_atomically(arguments.out / "ablations.json", json.dumps(rows, indent=1).encode())
    text = table(rows, found["whole"], images)
    write_atomically(arguments.out / "ablations.md", text.encode())
    draw(rows, arguments.out)
    print(f"\n{text}\nthe table and its figure: {arguments.out / 'ablations.md'}, ablations.png")


def flags(arguments: Arguments, name: str) -> list[str]:
    """The flags of `trainer.run` for one run, without its folder. name: a part, or "whole"."""
    epochs = [] if arguments.epochs is None else ["--epochs", str(arguments.epochs)]
    common = ["--store", str(arguments.store), "--seed", str(arguments.seed), "--recipe", arguments.recipe]
    ablation = () if name == "whole" else ABLATIONS[cast(Part, name)].flags
    return ["--no-figures", *common, *epochs, *ablation, *shlex.split(arguments.flags)]


def settings(arguments: Arguments, name: str) -> Config:
    """The settings of a new run with these flags, before those that follow from the store's size."""
    default = RECIPES[arguments.recipe]
    return parse(Config, "python -m trainer.run", default, flags(arguments, name), ranks=False)


def require_same_run(folder: Path, wanted: Config, store: Store) -> None:
    """Raise UserError when the folder has a run, complete or not, with other settings or another store.

    `trainer.run` alone would continue it: it takes the run's own settings for flags that are not given.
    """
    if not any((folder / name).exists() for name in (run_folder.CONFIG, run_folder.COMPLETE)):
        return
    try:
        found = run_folder.read_config(folder)
        fingerprint = run_folder.record(folder).get("store")
    except UserError as error:
        raise cannot_continue(folder, str(error).rstrip(".")) from None
    wanted, _ = settle(wanted, len(store.train))
    different = list(run_folder.differences(found, wanted).values())
    for name in ("precision", "gradient_dtype"):
        before, now = getattr(found.hardware, name), getattr(wanted.hardware, name)
        if now not in (before, "auto"):  # the run has the value that auto was resolved to
            different.append(f"--{name.replace('_', '-')} was {before}, now {now}")
    if fingerprint != store.fingerprint:
        different.append(f"the store was {found.run.store} with other images, now {store.path}")
    require_same_settings(folder, different)


def train(arguments: Arguments, folder: Path, name: str) -> None:
    """Start or continue one run by the command. Raises UserError when it does not complete."""
    launcher = ["mpirun", "-n", str(arguments.ranks)] if arguments.ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "trainer.run", "--run", str(folder), *flags(arguments, name)]
    print("$", shlex.join(command), flush=True)
    code = subprocess.run(command, check=False).returncode
    if not (folder / run_folder.COMPLETE).exists():
        raise UserError(f"{folder} is not complete (exit code {code}); the same command continues from here.")


def last_errors(folder: Path) -> tuple[float, float]:
    """Top-1 and top-5 error after the last epoch, in percent; the minimum over the epochs would be biased."""
    lines = having(read_log(folder / run_folder.LOG), "val_top1_error", "val_top5_error")
    if not lines:
        raise UserError(f"{folder} ended before its first validation: take more --epochs.")
    return 100 * lines[-1]["val_top1_error"], 100 * lines[-1]["val_top5_error"]


def compare(found: dict[str, tuple[float, float]], images: int) -> list[dict[str, Any]]:
    """A row for each part: the error added without it, here and in the paper, in percentage points.

    found: (top-1, top-5) error in percent of each run; images: of the validation set.
    """
    whole, rows = found["whole"], []
    for name, errors in found.items():
        if name == "whole":
            continue
        ablation = ABLATIONS[cast(Part, name)]
        rows.append(
            {
                "part": name,
                "what": ablation.label,
                "top1_error": errors[0],
                "top1_added": errors[0] - whole[0],
                "top5_added": errors[1] - whole[1],
                "top1_chance": standard_error(errors[0], whole[0], images),
                "paper_top1_added": ablation.top1,
                "paper_top5_added": ablation.top5,
                "paper_where": ablation.source,
            }
        )
    return rows


def standard_error(one: float, other: float, images: int) -> float:
    """Standard error of the difference of two errors in percent, each measured on this number of images."""
    return 100 * math.sqrt(sum(e / 100 * (1 - e / 100) / images for e in (one, other)))


def table(rows: list[dict[str, Any]], whole: tuple[float, float], images: int) -> str:
    """The rows as a Markdown table. whole: the errors of the network with all parts."""

    def points(value: float | None) -> str:
        return "–" if value is None else f"{value:+.2f}"

    lines = [
        f"The whole network: {whole[0]:.2f} % top-1, {whole[1]:.2f} % top-5 error, centre crop, "
        f"{images:,} validation images, after the last epoch.",
        "",
        "| left out | top-1, here | ± | top-1, paper | top-5, here | top-5, paper | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ours, paper = (r["top1_added"], r["top5_added"]), (r["paper_top1_added"], r["paper_top5_added"])
        lines.append(
            f"| {r['what']} | {points(ours[0])} | {r['top1_chance']:.2f} | {points(paper[0])} "
            f"| {points(ours[1])} | {points(paper[1])} | {r['paper_where']} |"
        )
    lines += [
        "",
        "Percentage points of error that are added without the part. ± is the standard error by the size of"
        " the validation set alone; other seeds add more. The paper's numbers are for ImageNet.",
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
            if r["paper_top1_added"] is not None:
                axes.barh(row + 0.18, r["paper_top1_added"], 0.34, color=style.ORANGE)
        axes.set_yticks(range(len(rows)), [r["what"] for r in rows])
        axes.invert_yaxis()
        axes.axvline(0, color=style.GREY, linewidth=0.8)
        axes.set_xlabel("percentage points")
        handles = [Patch(color=c) for c in (style.BLUE, style.ORANGE)]
        axes.legend(handles, ["here, ± one standard error", "paper, ImageNet"], loc="best")
        for kind in ("png", "svg"):
            style.write(figure, folder / f"ablations.{kind}")
