"""What the paper's parts are worth: the network without each of them, beside the paper's own differences.

Every row is a run of `trainer.run` with one switch changed, in a folder of its own, resumable as any run is.
A run that is there already must have the settings and the store of this command.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from preprocess.shared.files import write_atomically
from preprocess.store import Store
from trainer.cli import parse
from trainer.config import Config
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.experiments.earlier import refuse_other_settings, unreadable
from trainer.figures import style
from trainer.recipes import RECIPES, settle
from trainer.runs import run_folder
from trainer.runs.log import read_log

Part = Literal["lrn", "overlap", "dropout", "colour", "towers"]


@dataclass(frozen=True)
class Switch:
    """One part of the paper, and how it is left out."""

    what: str
    flags: tuple[str, ...]
    top1: float | None
    """Error that the paper adds without it, percentage points; None where it gives no number."""
    top5: float | None
    where: str


SWITCHES: dict[Part, Switch] = {
    "lrn": Switch("without LRN", ("--no-lrn",), 1.4, 1.2, "section 3.3"),
    "overlap": Switch("pooling without overlap", ("--no-overlap",), 0.4, 0.3, "section 3.4"),
    "dropout": Switch("without dropout", ("--dropout", "0"), None, None, 'section 4.2: "overfitting"'),
    "colour": Switch("without PCA colour", ("--color-std", "0"), 1.0, None, 'section 4.1: "over 1 %"'),
    "towers": Switch("one tower", ("--towers", "1"), 1.7, 1.2, "section 3.2"),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Error without LRN, overlapping pooling, dropout, colour and the second tower, beside the paper's.

    Example: python -m trainer.experiments ablations --ranks 2 --epochs 10
    """

    parts: tuple[Part, ...] = get_args(Part)
    """What to leave out, one at a time."""
    store: Path = Path("data/imagenet256.zarr")
    """The store that `snakemake preprocess` wrote."""
    out: Path = Path("runs/ablations")
    """Folder of the runs, the table and the figure."""
    ranks: int = 1
    """Ranks of each run, started by mpirun; 1 starts a process without it."""
    epochs: int | None = None
    """Epochs of each run. None: what the recipe takes for this store."""
    recipe: Literal["auto", "paper", "cuda-convnet"] = "auto"
    """The recipe that all runs share."""
    seed: int = 0
    """The seed that all runs share."""
    flags: str = ""
    """More flags of trainer.run for all of them, in quotes: --flags="--batch-size 64 --precision float32"."""


def run(arguments: Arguments) -> None:
    """Train what is not complete yet, then write the table and the figure."""
    style.available()
    store = open_data(arguments.store)
    pictures = len(store.val)
    if not pictures:
        raise UserError(f"{arguments.store} has no validation pictures: there is no error to compare.")
    folders = {name: arguments.out / name for name in ("whole", *arguments.parts)}
    for name, folder in folders.items():  # all of them, before hours are spent on the first
        refuse_another_run(folder, settings(arguments, name), store)
    found = {}
    for name, folder in folders.items():
        if not (folder / run_folder.COMPLETE).exists():
            train(arguments, folder, name)
        found[name] = last_errors(folder)
    rows = compare(found, pictures)
    write_atomically(arguments.out / "ablations.json", json.dumps(rows, indent=1).encode())
    text = table(rows, found["whole"], pictures)
    write_atomically(arguments.out / "ablations.md", text.encode())
    draw(rows, arguments.out)
    print(f"\n{text}\nthe table and its figure: {arguments.out / 'ablations.md'}, ablations.png")


def flags(arguments: Arguments, name: str) -> list[str]:
    """What `trainer.run` is given, but for the folder."""
    epochs = [] if arguments.epochs is None else ["--epochs", str(arguments.epochs)]
    common = ["--store", str(arguments.store), "--seed", str(arguments.seed), "--recipe", arguments.recipe]
    switch = () if name == "whole" else SWITCHES[cast(Part, name)].flags
    return ["--no-figures", *common, *epochs, *switch, *shlex.split(arguments.flags)]


def settings(arguments: Arguments, name: str) -> Config:
    """What `trainer.run` makes of these flags in a new folder, before the store's size is known to it."""
    default, words = RECIPES[arguments.recipe], flags(arguments, name)
    return parse(Config, "python -m trainer.run", default, words, ranks=False)


def refuse_another_run(folder: Path, wanted: Config, store: Store) -> None:
    """Raise UserError where the folder holds a run with other settings, or of another store.

    Complete or not: `trainer.run` goes on with a run's own settings where a flag is not given.
    """
    if not any((folder / name).exists() for name in (run_folder.CONFIG, run_folder.COMPLETE)):
        return
    try:
        found = run_folder.read_config(folder)
        fingerprint = json.loads((folder / run_folder.CONFIG).read_text())["store"]
    except (UserError, KeyError) as error:
        raise unreadable(folder, str(error).rstrip(".")) from None
    wanted, _ = settle(wanted, len(store.train))
    different = list(run_folder.differences(found, wanted).values())
    for name in ("precision", "gradient_dtype"):
        before, now = getattr(found.hardware, name), getattr(wanted.hardware, name)
        if now not in (before, "auto"):  # a run keeps what auto once was
            different.append(f"--{name.replace('_', '-')} was {before}, now {now}")
    if fingerprint != store.fingerprint:
        different.append(f"the store was {found.run.store} with other images, now {store.path}")
    refuse_other_settings(folder, different)


def train(arguments: Arguments, folder: Path, name: str) -> None:
    """One run, or the rest of it, as a user would start it."""
    launcher = ["mpirun", "-n", str(arguments.ranks)] if arguments.ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "trainer.run", "--run", str(folder), *flags(arguments, name)]
    print("$", shlex.join(command), flush=True)
    code = subprocess.run(command, check=False).returncode
    if not (folder / run_folder.COMPLETE).exists():
        raise UserError(f"{folder} is not complete (exit code {code}); the same command goes on from here.")


def last_errors(folder: Path) -> tuple[float, float]:
    """Top-1 and top-5 error after the last epoch, in percent: the best epoch would favour lucky runs."""
    lines = [line for line in read_log(folder / run_folder.LOG) if "val_top1_error" in line]
    if not lines:
        raise UserError(f"{folder} ended before its first epoch did: take more --epochs.")
    return 100 * lines[-1]["val_top1_error"], 100 * lines[-1]["val_top5_error"]


def compare(found: dict[str, tuple[float, float]], pictures: int) -> list[dict[str, Any]]:
    """A row a part: what is added to the error without it, here and in the paper, in percentage points."""
    whole, rows = found["whole"], []
    for name, errors in found.items():
        if name == "whole":
            continue
        switch = SWITCHES[cast(Part, name)]
        rows.append(
            {
                "part": name,
                "what": switch.what,
                "top1_error": errors[0],
                "top1_added": errors[0] - whole[0],
                "top5_added": errors[1] - whole[1],
                "top1_chance": chance(errors[0], whole[0], pictures),
                "paper_top1_added": switch.top1,
                "paper_top5_added": switch.top5,
                "paper_where": switch.where,
            }
        )
    return rows


def chance(one: float, other: float, pictures: int) -> float:
    """Standard error of the difference of two errors in percent, each a share of so many pictures."""
    return 100 * math.sqrt(sum(e / 100 * (1 - e / 100) / pictures for e in (one, other)))


def table(rows: list[dict[str, Any]], whole: tuple[float, float], pictures: int) -> str:
    """The rows as Markdown."""

    def points(value: float | None) -> str:
        return "–" if value is None else f"{value:+.2f}"

    lines = [
        f"The whole network: {whole[0]:.2f} % top-1, {whole[1]:.2f} % top-5 error, centre crop, "
        f"{pictures:,} validation pictures, after the last epoch.",
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
        "Percentage points of error that are added without the part. ± is the standard error that chance"
        " alone gives a validation set of this size; other seeds add more. The paper's are on ImageNet.",
        "",
    ]
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write folder/ablations.png and .svg: what each part is worth, here and in the paper."""
    import matplotlib
    from matplotlib.patches import Patch

    with matplotlib.rc_context(cast(Any, style.SETTINGS)):
        made = style.figure(0.8 + 0.42 * len(rows), "Top-1 error added without each part")
        axes = made.subplots()
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
            made.savefig(folder / f"ablations.{kind}", dpi=style.DPI)
