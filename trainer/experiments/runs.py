"""The runs of an experiment: `trainer.run` with flags and a seed, each in its own folder, and resumed.

A run that exists already must have the settings and the store of this command.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.store import Store
from trainer.cli import parse
from trainer.config import Config
from trainer.data.batches import open_training_data
from trainer.errors import UserError
from trainer.experiments.arguments import Runs as Arguments
from trainer.experiments.same_settings import cannot_continue, require_same_settings
from trainer.recipes import RECIPES, settle
from trainer.runs import run_folder
from trainer.runs.log import having, read_log


@dataclass(frozen=True)
class Run:
    """One training of an experiment."""

    folder: Path
    flags: tuple[str, ...]
    """The flags of `trainer.run`, without the folder."""
    settings: Config
    """The settings that the flags give a new run, with those that follow from the store's size."""


def of_seed(arguments: Arguments, name: str, seed: int, store: Store, flags: Sequence[str] = ()) -> Run:
    """The run of one seed. name: of its folder in --out; flags: those of `trainer.run` for this name."""
    a = arguments
    epochs = () if a.epochs is None else ("--epochs", str(a.epochs))
    common = ("--no-figures", "--store", str(a.store), "--seed", str(seed), "--recipe", a.recipe)
    all_flags = (*common, *epochs, *flags, *shlex.split(a.flags))
    settings = parse(Config, "python -m trainer.run", RECIPES[a.recipe], all_flags, ranks=False)
    settings, _ = settle(settings, len(store.train))
    return Run(a.out / name / f"seed-{seed}", all_flags, settings)


def open_store(arguments: Arguments) -> Store:
    """Open the store of the runs. Raises UserError where it has no validation images."""
    store = open_training_data(arguments.store)
    if not len(store.val):
        raise UserError(f"{arguments.store} has no validation images: there is no error to compare.")
    return store


def require_same_run(run: Run, store: Store) -> None:
    """Raise UserError when the folder has a run, complete or not, with other settings or another store.

    `trainer.run` alone would continue it: it takes the run's own settings for flags that are not given.
    """
    if not any((run.folder / name).exists() for name in (run_folder.CONFIG, run_folder.COMPLETE)):
        return
    try:
        found, record = run_folder.read_config(run.folder), run_folder.record(run.folder)
    except UserError as error:
        raise cannot_continue(run.folder, str(error).rstrip(".")) from None
    different = list(run_folder.differences(found, run.settings).values())
    for name in ("precision", "gradient_dtype"):
        before, now = getattr(found.hardware, name), getattr(run.settings.hardware, name)
        if now not in (before, "auto"):  # the run has the value that auto was resolved to
            different.append(f"--{name.replace('_', '-')} was {before}, now {now}")
    if record.get("store") != store.fingerprint:
        different.append(f"the store was {found.run.store} with other images, now {store.path}")
    changed = {name for change in record.get("changes", ()) for name in change["changed"]}
    if changed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(changed))
        different.append(f"{flags} changed while it trained")
    require_same_settings(run.folder, different)


def train(arguments: Arguments, run: Run) -> None:
    """Start or continue one run by the command. Raises UserError when it does not complete."""
    if _complete(run):
        return
    code = _call(arguments.ranks, "trainer.run", "--run", str(run.folder), *run.flags)
    if not _complete(run):
        raise UserError(
            f"{run.folder} is not complete (exit code {code}); the same command continues from here."
        )


def _complete(run: Run) -> bool:
    return (run.folder / run_folder.COMPLETE).exists()


def ten_crop_errors(arguments: Arguments, run: Run) -> tuple[float, float]:
    """Top-1 and top-5 error of a run's last weights over ten crops, in percent; measured once."""
    path = run.folder / "ten-crops.json"
    if not path.exists():
        which = ("--run", str(run.folder), "--checkpoint", "latest", "--store", str(arguments.store))
        code = _call(arguments.ranks, "trainer.evaluate", "--ten-crop", *which, "--json", str(path))
        if code:
            raise UserError(
                f"The errors of {run.folder} over ten crops could not be measured (exit code {code})."
            )
    found = json.loads(path.read_text())
    return 100 * found["top1_error"], 100 * found["top5_error"]


def _call(ranks: int, module: str, *flags: str) -> int:
    """Run a command of this package, and print it; returns its exit code."""
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-m", module, *flags]
    print("$", shlex.join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def last_errors(run: Run) -> tuple[float, float]:
    """Top-1 and top-5 error after the last epoch, in percent; the minimum over the epochs would be biased.

    Raises UserError for a run that ended early.
    """
    lines = having(log(run), "val_top1_error", "val_top5_error", "epoch")
    if not lines:
        raise UserError(f"{run.folder} ended before its first validation: take more --epochs.")
    last, epochs = lines[-1], run.settings.optim.epochs
    if run.settings.optim.schedule != "plateau" and last["epoch"] != epochs:
        raise UserError(
            f"{run.folder} ended after epoch {last['epoch']:g} of {epochs}: remove it, and leave out "
            "--max-steps."
        )
    return 100 * last["val_top1_error"], 100 * last["val_top5_error"]


def log(run: Run) -> list[dict[str, Any]]:
    """The lines of the run's log."""
    return read_log(run.folder / run_folder.LOG)


def made_with(run: Run) -> str:
    """The versions of the project and of torch that the run was started with."""
    found = run_folder.record(run.folder).get("versions", {})
    return f"trainer {found.get('trainer', 'unknown')}, torch {found.get('torch', 'unknown')}"
