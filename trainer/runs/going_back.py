"""Continuing a run from another checkpoint than its last: later ones are set aside, never lost.

    checkpoints/set-aside-001/
      step-00000009/ step-00000012/   checkpoints after the one that the run went back to
      metrics.jsonl                   the run's log as it was
      to                              while folders are moved: the checkpoint that the run goes back to

Only `latest` decides where a run continues. Before a run starts, `repair` completes what an interruption of
the last start left. Rank 0 calls all of this and holds the run's lock.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from preprocess.shared.files import remove_leftovers_of, sync_folder, write_atomically
from trainer.runs import checkpoint, run_folder
from trainer.runs.checkpoint import BEST, LATEST, SOUND, Checkpoint, named, own, step_of

ASIDE = "set-aside-"
GOAL = "to"


def repair(run: Path) -> list[str]:
    """Complete what was interrupted and correct the markers; returns a sentence for each change.

    A kill can come between the renaming of a checkpoint and the writing of `latest`. A checkpoint whose state
    names the one in `latest` as its previous one then becomes the latest. Any other later one is left for
    `continue_from` to set aside.
    """
    folder = run / checkpoint.FOLDER
    for name in (run_folder.CONFIG, run_folder.LOG):
        remove_leftovers_of(run / name)
    if not folder.exists():
        return []
    for aside in sorted(folder.glob(f"{ASIDE}*")):
        if (aside / GOAL).exists():
            _move(run, aside)
    _sweep(folder)
    paths = own(folder)
    if not paths:
        for marker in (LATEST, BEST, SOUND):
            (folder / marker).unlink(missing_ok=True)
        return []
    remarks = []
    names = [path.name for path in paths]
    latest = before = named(folder, LATEST)
    if latest not in names:
        latest = next((path.name for path in paths[::-1] if not checkpoint.check(path)), names[-1])
        if before:
            remarks.append(f"{folder / LATEST} names {before}, which is not there: {latest} takes its place.")
    for path in paths:
        later = step_of(path) > step_of(latest)
        if later and not checkpoint.check(path) and checkpoint.state_of(path).get("previous") == latest:
            latest = path.name
    if latest != before:
        write_atomically(folder / LATEST, latest.encode())
    set_markers(folder)
    return remarks


def set_markers(folder: Path) -> None:
    """Write `best` from the measured errors; remove a `sound` that names a missing checkpoint."""
    sound = checkpoint.named(folder, SOUND)
    if sound and not (folder / sound).exists():
        (folder / SOUND).unlink()
    best = checkpoint.best_of(folder)
    if best is None:
        (folder / BEST).unlink(missing_ok=True)
    elif best != named(folder, BEST):
        write_atomically(folder / BEST, best.encode())


def continue_from(run: Path, found: Checkpoint) -> list[str]:
    """Make `found` the checkpoint that the run continues from; returns a sentence on what was set aside.

    A checkpoint of another run, or one that was set aside, is copied into the run first.
    """
    folder = run / checkpoint.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    inside = found.path.resolve().parent == folder.resolve()
    if not inside:
        _copy_in(found, folder)
    left = [path for path in own(folder) if not inside or step_of(path) > found.step]
    where = _set_aside(run, found, left) if left else None
    if not inside and where is None:
        _take_in(folder, found.path.name)
    write_atomically(folder / LATEST, found.path.name.encode())
    set_markers(folder)
    if where is None:
        return []
    names = left[0].name if len(left) == 1 else f"{len(left)} checkpoints, {left[0].name} to {left[-1].name},"
    return [
        f"{run} continues from {found.path.name}: {names} {'was' if len(left) == 1 else 'were'} set aside in "
        f"{where}; --resume {where / left[-1].name} returns there."
    ]


def _set_aside(run: Path, found: Checkpoint, left: list[Path]) -> Path:
    """Move checkpoints into a new folder. The file `to` is written first: a kill loses none of them."""
    folder = run / checkpoint.FOLDER
    names = [path.name.removeprefix(ASIDE) for path in folder.glob(f"{ASIDE}*")]
    number = max((int(name) for name in names if name.isdecimal()), default=0) + 1
    aside = folder / f"{ASIDE}{number:03d}"
    partial = folder / f".{aside.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if (run / run_folder.LOG).exists():
        shutil.copyfile(run / run_folder.LOG, partial / run_folder.LOG)
    lines = [found.path.name, *(path.name for path in left)]
    write_atomically(partial / GOAL, "\n".join(lines).encode())
    partial.rename(aside)
    sync_folder(folder)
    _move(run, aside)
    return aside


def _move(run: Path, aside: Path) -> None:
    """Move the checkpoints that the file `to` of a set-aside folder lists; repeatable after a kill."""
    folder = run / checkpoint.FOLDER
    goal, *left = (aside / GOAL).read_text().split()
    for name in left:
        if (folder / name).exists() and not (aside / name).exists():
            (folder / name).rename(aside / name)
    _take_in(folder, goal)
    write_atomically(folder / LATEST, goal.encode())
    set_markers(folder)
    (aside / GOAL).unlink()
    sync_folder(aside)


def _copy_in(found: Checkpoint, folder: Path) -> None:
    """Copy a checkpoint from elsewhere, and its log, into the run under a temporary name."""
    incoming = folder / f".{found.path.name}.incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    shutil.copytree(found.path, incoming)
    log = found.path.parent / run_folder.LOG
    if log.exists():  # of a checkpoint that was set aside
        shutil.copyfile(log, incoming / run_folder.LOG)
    for path in incoming.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(incoming)


def _take_in(folder: Path, name: str) -> None:
    """Rename what `_copy_in` has copied, and take over its log."""
    incoming = folder / f".{name}.incoming"
    if not incoming.exists():
        return
    if (incoming / run_folder.LOG).exists():
        (incoming / run_folder.LOG).replace(folder.parent / run_folder.LOG)
    incoming.rename(folder / name)
    sync_folder(folder)


def _sweep(folder: Path) -> None:
    """Remove the temporary files and folders of interrupted writes."""
    for kind in ("partial", "incoming", "pruned"):
        for left in folder.glob(f".*.{kind}"):
            shutil.rmtree(left, ignore_errors=True)
    for name in (LATEST, BEST, SOUND):
        remove_leftovers_of(folder / name)
    for path in own(folder):
        remove_leftovers_of(path / checkpoint.VALIDATION)
