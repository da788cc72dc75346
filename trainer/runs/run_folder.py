"""The folders of runs: their files, and which one a command means.

runs/<name>/ holds config.json, metrics.jsonl, checkpoints/ and, once all is done, the marker `complete`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocess.shared import json_files
from preprocess.shared.files import write_atomically
from preprocess.store import Store
from trainer.config import GROUP_OF, Config, flag, from_dict, to_dict, with_changes
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.runs import checkpoint
from trainer.runs.formats import Record

RUNS = Path("runs")
COMPLETE = "complete"
CONFIG = "config.json"
LOG = "metrics.jsonl"
FIGURES = "figures"

CHANGEABLE = (
    *("lr", "warmup_epochs", "schedule", "patience", "lr_steps", "epochs"),
    *("precision", "gradient_dtype"),
)
"""What may differ when a run is continued."""


def read_config(run: Path) -> Config:
    """The configuration that a run was started with. Raises UserError when there is no such run."""
    found = record(run)
    if not found:
        raise UserError(f"{run} is not the folder of a run: it has no {CONFIG}.")
    return _usable(run, found["config"])


def _usable(run: Path, plain: Mapping[str, Any]) -> Config:
    try:
        return from_dict(plain)
    except UserError as error:
        raise UserError(f"{run / CONFIG} cannot be read as a run's configuration: {error}") from None


def record(run: Path) -> Record:
    """All of config.json: configuration, the store's fingerprint, versions, changes. Empty: no run yet.

    Raises UserError when the file is damaged.
    """
    path = run / CONFIG
    try:
        found = json_files.read(path, Record, CONFIG)
        if "config" not in found:
            raise json_files.JsonError(f"{CONFIG} has no config")
    except json_files.MissingError:
        if run.is_file():
            raise UserError(f"{run} is a file, not the folder of a run: name another --run.") from None
        return {}
    except json_files.JsonError as error:
        raise UserError(
            f"{path} cannot be read as a run's configuration: {error}; name another --run."
        ) from None
    return found


def write_config(
    run: Path, config: Config, store_fingerprint: str, changes: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write config.json: the configuration with absolute paths, the store's fingerprint, versions.

    changes: of settings at later starts, oldest first.
    """
    run.mkdir(parents=True, exist_ok=True)
    where = {"store": config.run.store.absolute(), "folder": run.absolute(), "init_from": _initial(config)}
    settled = with_changes(config, **where, resume="auto", max_steps=None)
    found = {
        "config": to_dict(settled),
        "store": store_fingerprint,
        "versions": checkpoint.versions(),
        "changes": list(changes),
    }
    write_atomically(run / CONFIG, json.dumps(found, indent=1).encode())


def changes(run: Path, config: Config, store_fingerprint: str) -> dict[str, list[Any]]:
    """Settings in which a run is continued otherwise than it was started: name -> [old, new].

    Raises UserError when the run cannot be continued with these settings, or on this store: the learning
    rate, its schedule and the arithmetic may change, what the network or its data are may not.
    """
    before = read_config(run)
    refused = [phrase for name, phrase in differences(before, config).items() if name not in CHANGEABLE]
    if refused:
        raise UserError(f"{run} was started with other settings: {'; '.join(refused)}. Name another --run.")
    if record(run).get("store") != store_fingerprint:
        raise UserError(
            f"{run} was trained on another store than {config.run.store} is now (its fingerprint "
            "differs): name the run's own with --store, or another --run."
        )
    old, new = to_dict(before), to_dict(config)
    values = {name: [part[GROUP_OF[name]][name] for part in (old, new)] for name in CHANGEABLE}
    return {name: [before, now] for name, (before, now) in values.items() if before != now}


def store_of(run: Path, path: Path) -> Store:
    """The store of a run whose checkpoints hold no training set, as those of older versions do not.

    Raises UserError when the store at this path is not the one that the run was trained on.
    """
    store = open_data(path)
    if record(run).get("store") != store.fingerprint:
        raise UserError(
            f"{path} is not the store that {run} was trained on, and this checkpoint has no mean image of "
            "its own: make the store again as it was."
        )
    return store


def latest() -> Path:
    """The run in runs/ whose log was written last. Raises UserError when there is none."""
    found = [path.parent for path in RUNS.glob(f"*/{CONFIG}") if checkpoint.exists(path.parent)]
    if not found:
        raise UserError(
            f"There is no run with a checkpoint in {RUNS}/; train first: mpirun -n 2 python -m trainer.run"
        )
    return max(found, key=lambda run: (run / LOG).stat().st_mtime if (run / LOG).exists() else 0.0)


def choose(config: Config, store_fingerprint: str) -> Path:
    """The folder for a command without --run.

    That of the checkpoint in --resume, else the newest unfinished run of the same settings on the same store,
    else a new one.
    """
    resume = config.run.resume
    if resume not in ("auto", "never"):
        return _short(checkpoint.run_of(Path(resume)))
    for path in sorted(RUNS.glob(f"{config.recipe}-*/{CONFIG}"), reverse=True) if resume == "auto" else ():
        run = path.parent
        with contextlib.suppress(UserError):  # a run of another version
            same_store = record(run).get("store") == store_fingerprint
            same = not (differences(read_config(run), config) and differences(started_with(run), config))
            if same and same_store and not (run / COMPLETE).exists():
                return run
    numbers = [int(n) for p in RUNS.glob(f"{config.recipe}-*") if (n := p.name.rpartition("-")[2]).isdigit()]
    return RUNS / f"{config.recipe}-{max(numbers, default=0) + 1:03d}"


def started_with(run: Path) -> Config:
    """The configuration of a run's first start, before the changes of later ones."""
    found = record(run)
    plain = to_dict(_usable(run, found["config"]))
    for change in reversed(found.get("changes", [])):
        for name, (old, _) in change["changed"].items():
            plain[GROUP_OF.get(name, "run")][name] = old  # from_dict refuses an unknown name there
    return _usable(run, plain)


def _short(path: Path) -> Path:
    """Relative to the working folder where it is below it."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def differences(old: Config, new: Config) -> dict[str, str]:
    """The settings of network, data, optimizer and start that differ: name -> a phrase."""
    found = {}
    if old.recipe != new.recipe:
        found["recipe"] = f"--recipe was {old.recipe}, now {new.recipe}"
    for part in ("network", "augment", "optim"):
        for f in dataclasses.fields(getattr(old, part)):
            before, now = getattr(getattr(old, part), f.name), getattr(getattr(new, part), f.name)
            if before != now:
                found[f.name] = f"{flag(f.name)} was {before}, now {now}"
    for name, before, now in (
        ("seed", old.run.seed, new.run.seed),
        ("init_from", _initial(old), _initial(new)),
        ("classes", old.run.classes, new.run.classes),
    ):
        if before != now:
            found[name] = f"{flag(name)} was {before}, now {now}"
    return found


def _initial(config: Config) -> Path | None:
    """The absolute path of the network that a run starts from."""
    path = config.run.init_from
    return None if path is None else path.absolute()
