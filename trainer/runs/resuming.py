"""Where a run starts: which run, from which checkpoint, with which settings. Rank 0 decides for all."""

from __future__ import annotations

import dataclasses
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.store import Store
from trainer.config import Config, with_changes
from trainer.errors import UserError
from trainer.runs import checkpoint, going_back, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.training_set import TrainingSet


@dataclass(frozen=True, kw_only=True)
class Start:
    """What rank 0 has found."""

    run: Path
    config: Config
    """As it was asked for, with what the run settled earlier."""
    found: Checkpoint | None
    """The checkpoint to continue from; None at the beginning."""
    changed: dict[str, list[Any]]
    """Settings that are not those that the run had so far: name -> [old, new]."""
    remarks: list[str]
    """A sentence for each thing that the user should know."""


def choose(config: Config, store: Store) -> tuple[Path, Config]:
    """The folder of the run, and the configuration with what that run was told and settled before."""
    run = config.run.folder or run_folder.choose(config, store.fingerprint)
    if not run_folder.record(run):
        return run, config
    before = run_folder.read_config(run)
    if config.run.folder is None and config.run.resume == "auto":
        config = dataclasses.replace(config, optim=before.optim)  # a change of an earlier start stays
    if config.hardware.precision == "auto":
        config = with_changes(config, precision=before.hardware.precision)
    return run, config


def find(run: Path, config: Config, store: Store) -> Start:
    """What the run goes on from. Call it with the run's lock held: it repairs the folder.

    Raises UserError when the run cannot go on like this.
    """
    wish, started = config.run.resume, bool(run_folder.record(run))
    if wish == "never" and started:
        raise UserError(f"{run} exists already; name another --run, or leave out --resume never.")
    changed = run_folder.changes(run, config, store.fingerprint) if started else {}
    remarks = going_back.repair(run)
    found = None
    if wish not in ("auto", "never"):
        found = checkpoint.verified(Path(wish))
        remarks += _of_another_store(found, store)
    elif started and checkpoint.exists(run):
        found, damaged = checkpoint.find(run)
        remarks += damaged
    return Start(run=run, config=config, found=found, changed=changed, remarks=remarks)


def _of_another_store(found: Checkpoint, store: Store) -> list[str]:
    """A sentence where a checkpoint of another store is continued on this one; UserError if it cannot be."""
    trained_on = TrainingSet.read(found.path)
    if trained_on is None or trained_on.fingerprint == store.fingerprint:
        return []
    if trained_on.classes != store.classes:
        raise UserError(
            f"{found.path} is of a network whose classes are not those of {store.path}: its outputs would "
            "stand for others. Continue it on the store that it was trained on, with --store."
        )
    return [
        f"{found.path} was trained on another store (fingerprint {trained_on.fingerprint}); it goes on with "
        f"the images and the mean image of {store.path}."
    ]


def begin(start: Start, config: Config, store: Store) -> list[str]:
    """Write down how the run goes on; returns sentences about what is changed or set aside.

    config: settled, with the precision that is computed in.
    """
    run, said = start.run, []
    step = start.found.step if start.found else 0
    changes = list(run_folder.record(run).get("changes", []))
    if start.changed:
        changes.append({"step": step, "time": round(time.time(), 3), "changed": start.changed})
        words = ", ".join(
            f"--{n.replace('_', '-')} {new} instead of {old}" for n, (old, new) in start.changed.items()
        )
        said.append(f"{run}: from step {step} on with {words}")
    if start.found:
        said += going_back.continue_from(run, start.found)
    (run / run_folder.COMPLETE).unlink(missing_ok=True)
    run_folder.write_config(run, config, store.fingerprint, changes)
    return said


def at_a_lower_rate(run: Path, before: Path | None, lr: float, ranks: int) -> str:
    """What the user can do about a run that diverged; `before`: the checkpoint from before that, if any."""
    if before is None:
        return (
            "There is no checkpoint from before that: start the same command again with a lower rate, such "
            f"as --lr {lr:g}, or a longer --warmup-epochs."
        )
    launcher = "" if ranks == 1 else f"mpirun -n {ranks} "
    where = f"--run {shlex.quote(str(run))} --resume {shlex.quote(str(before))}"
    return f"Go on from before it with a lower rate: {launcher}python -m trainer.run {where} --lr {lr:g}"
