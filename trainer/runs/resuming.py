"""Where a run starts: its folder, its checkpoint, its settings. Rank 0 calls this and tells the others."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.store import Store
from trainer.config import Config, with_changes
from trainer.errors import UserError
from trainer.runs import checkpoint, going_back, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.training_set import TrainingSet


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where and how a run starts."""

    run: Path
    config: Config
    """As the command line asks, with the choices that the run made earlier."""
    found: Checkpoint | None
    """The checkpoint to continue from; None at the beginning."""
    changed: dict[str, list[Any]]
    """Settings that differ from those of the run so far: name -> [old, new]."""
    remarks: list[str]
    """A sentence for each thing that the user should know."""
    mean_SS3: NDArray[np.float32] | None = None
    """The mean image that this run subtracts; None: the store's."""


def choose(config: Config, store: Store) -> tuple[Path, Config]:
    """The folder of the run, and the configuration with the choices that this run made before."""
    run = config.run.folder or run_folder.choose(config, store.fingerprint)
    if not run_folder.record(run):
        return run, config
    before = run_folder.read_config(run)
    if config.run.folder is None and config.run.resume == "auto":
        config = dataclasses.replace(config, optim=before.optim)  # with changes of earlier starts
    if config.hardware.precision == "auto":
        config = with_changes(config, precision=before.hardware.precision)
    return run, config


def find(run: Path, config: Config, store: Store) -> Start:
    """The checkpoint that the run continues from. Repairs the folder, so that the lock must be held.

    Raises UserError when the run cannot continue with these settings.
    """
    resume, started = config.run.resume, bool(run_folder.record(run))
    if resume == "never" and started:
        raise UserError(f"{run} exists already; name another --run, or leave out --resume never.")
    changed = run_folder.changes(run, config, store.fingerprint) if started else {}
    explicit = resume not in ("auto", "never")
    if explicit and config.run.init_from and not started:
        raise UserError(
            f"--resume {resume} and --init-from {config.run.init_from} name two networks for the start of "
            f"{run}: leave out one of them."
        )
    remarks = going_back.repair(run)
    found = None
    if explicit:
        found = checkpoint.verified(Path(resume))
    elif started and checkpoint.exists(run):
        found, damaged = checkpoint.find(run)
        remarks += damaged
    trained_on = TrainingSet.read(found.path) if found else None
    if found and explicit:
        remarks += _of_another_store(found, trained_on, store)
    own = trained_on is not None and trained_on.fingerprint == store.fingerprint
    return Start(
        run=run,
        config=config,
        found=found,
        changed=changed,
        remarks=remarks,
        mean_SS3=trained_on.mean_SS3 if trained_on and own else None,
    )


def _of_another_store(found: Checkpoint, trained_on: TrainingSet | None, store: Store) -> list[str]:
    """A sentence when the checkpoint was trained on another store. Raises UserError if its classes differ."""
    if trained_on is None or trained_on.fingerprint == store.fingerprint:
        return []
    if trained_on.classes != store.classes:
        raise UserError(
            f"{found.path} is of a network whose classes are not those of {store.path}: its outputs would "
            "stand for others. Continue it on the store that it was trained on, with --store."
        )
    known = f" (fingerprint {trained_on.fingerprint})" if trained_on.fingerprint else ""
    return [
        f"{found.path} was trained on another store{known}; it continues with the images and the mean image "
        f"of {store.path}."
    ]


def begin(start: Start, config: Config, store: Store) -> list[str]:
    """Write the configuration and the changes; returns a sentence for each thing changed or set aside.

    config: without open choices, with the precision that is used.
    """
    run, sentences = start.run, []
    step = start.found.step if start.found else 0
    changes: list[Mapping[str, Any]] = [*run_folder.record(run).get("changes", [])]
    if start.changed:
        changes.append({"step": step, "time": round(time.time(), 3), "changed": start.changed})
        words = ", ".join(
            f"--{n.replace('_', '-')} {new} instead of {old}" for n, (old, new) in start.changed.items()
        )
        sentences.append(f"{run}: from step {step} on with {words}")
    if start.found:
        sentences += going_back.continue_from(run, start.found)
    (run / run_folder.COMPLETE).unlink(missing_ok=True)
    run_folder.write_config(run, config, store.fingerprint, changes)
    return sentences


def at_a_lower_rate(run: Path, before: Path | None, lr: float, ranks: int) -> str:
    """The remedy for a run that diverged. `before`: the checkpoint from before that, if there is one."""
    if before is None:
        return (
            "There is no checkpoint from before that: start the same command again with a lower rate, such "
            f"as --lr {lr:g}, or a longer --warmup-epochs."
        )
    launcher = "" if ranks == 1 else f"mpirun -n {ranks} "
    where = f"--run {shlex.quote(str(run))} --resume {shlex.quote(str(before))}"
    return f"Go on from before it with a lower rate: {launcher}python -m trainer.run {where} --lr {lr:g}"
