"""Folders of runs: which one is meant, what is in it.

runs/<name>/ holds config.json, metrics.jsonl, checkpoints/ and, once all is done, the marker `complete`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from trainer import checkpoint
from trainer.config import Config, from_dict, to_dict
from trainer.errors import UserError

RUNS = Path("runs")
COMPLETE = "complete"
CONFIG = "config.json"
LOG = "metrics.jsonl"


def read_config(run: Path) -> Config:
    """The configuration that a run was started with. Raises UserError when there is no such run."""
    path = run / CONFIG
    if not path.exists():
        raise UserError(f"{run} is not the folder of a run: it has no {CONFIG}.")
    try:
        return from_dict(json.loads(path.read_text())["config"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} cannot be read as a run's configuration.") from None


def write_config(run: Path, config: Config, store_fingerprint: str) -> None:
    """Save the resolved configuration and what the run stands on."""
    run.mkdir(parents=True, exist_ok=True)
    record = {"config": to_dict(config), "store": store_fingerprint, "versions": checkpoint.versions()}
    checkpoint.write_atomic(run / CONFIG, json.dumps(record, indent=1).encode())


def refuse_if_different(run: Path, config: Config, store_fingerprint: str) -> None:
    """Raise UserError when a run cannot be continued with these settings, or on this store.

    More epochs than it was started with, or fewer, are welcome.
    """
    different = differences(read_config(run), config)
    different.pop("epochs", None)
    if different:
        phrases = "; ".join(different.values())
        raise UserError(f"{run} was started with other settings: {phrases}. Name another --run.")
    if json.loads((run / CONFIG).read_text())["store"] != store_fingerprint:
        raise UserError(
            f"{run} was trained on another store than {config.session.store}; name another --run."
        )


def latest() -> Path:
    """The run in runs/ that was written to last. Raises UserError when there is none."""
    found = [path.parent for path in RUNS.glob(f"*/{CONFIG}") if checkpoint.exists(path.parent)]
    if not found:
        raise UserError(
            f"There is no run with a checkpoint in {RUNS}/; train first: mpirun -n 2 python -m trainer.run"
        )
    return max(found, key=lambda run: (run / LOG).stat().st_mtime if (run / LOG).exists() else 0.0)


def choose(config: Config) -> Path:
    """The folder for a bare command: the newest unfinished run of the same settings, or a new one."""
    mine = sorted(RUNS.glob(f"{config.recipe}-*/{CONFIG}"), reverse=True)
    for path in mine:
        run = path.parent
        with contextlib.suppress(UserError):  # a run of another version is not this one
            if not (run / COMPLETE).exists() and not differences(read_config(run), config):
                return run
    numbers = [int(n) for p in RUNS.glob(f"{config.recipe}-*") if (n := p.name.rpartition("-")[2]).isdigit()]
    return RUNS / f"{config.recipe}-{max(numbers, default=0) + 1:03d}"


def differences(old: Config, new: Config) -> dict[str, str]:
    """The settings that decide a run's result and are not the same, each with a phrase for it."""
    found = {}
    if old.recipe != new.recipe:
        found["recipe"] = f"--recipe was {old.recipe}, now {new.recipe}"
    for part in ("network", "augment", "optim"):
        for f in dataclasses.fields(getattr(old, part)):
            before, now = getattr(getattr(old, part), f.name), getattr(getattr(new, part), f.name)
            if before != now:
                found[f.name] = f"--{f.name.replace('_', '-')} was {before}, now {now}"
    if old.session.seed != new.session.seed:
        found["seed"] = f"--seed was {old.session.seed}, now {new.session.seed}"
    return found


def with_session(config: Config, **changes: Any) -> Config:
    """The same configuration with some settings of the session changed."""
    return dataclasses.replace(config, session=dataclasses.replace(config.session, **changes))


def with_batch(config: Config, batch_size: int) -> Config:
    """The same configuration with another global batch."""
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_size=batch_size))
