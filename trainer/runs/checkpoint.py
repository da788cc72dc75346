"""Checkpoints on the disk: listing, choosing, verifying and loading them.

    runs/<name>/checkpoints/
      step-00000470/
        tower_a.safetensors           parameters, and momentum under momentum.<name>, float32
        tower_b.safetensors
        training_set.safetensors      mean image, classes and their names, the store's fingerprint
        state.json                    step, epoch, schedule, seed, loss, previous checkpoint, world, versions
        manifest.json                 SHA-256 of these four
        validation.json               errors on the validation set; added once they are measured
      latest                          name of the checkpoint that a run continues from
      best                            name of the one with the lowest validation error
      sound                           name of the newest one whose weights gave a finite, not too large loss
      set-aside-001/                  later checkpoints of a run that went back; see going_back.py

checkpoint_writer.py writes them, on pair 0. Any number of pairs, or one process, can read them. Only folders
named `step-` and at least eight digits are counted or removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.shared import json_files
from preprocess.shared.json_files import JsonError
from trainer.errors import UserError
from trainer.runs import tensors as tensors_file
from trainer.runs import version
from trainer.runs.formats import Manifest, State, State01, Validation

if TYPE_CHECKING:
    from trainer.parallel.topology import Comm  # which starts MPI; one process alone needs none

FOLDER = "checkpoints"
LATEST, BEST, SOUND = "latest", "best", "sound"
STATE, MANIFEST, VALIDATION = "state.json", "manifest.json", "validation.json"
OWN = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums are right."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that were taken before it was saved."""
        step: int = self.state["step"]
        return step


def name_of(step: int) -> str:
    """The folder's name."""
    return f"step-{step:08d}"


def step_of(path: Path | str) -> int:
    """The step in a folder's name."""
    return int(str(path).rpartition("-")[2])


def versions() -> dict[str, str]:
    """Versions of this project, Python, torch and NumPy."""
    return {
        "trainer": version.described(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def named(folder: Path, marker: str) -> str | None:
    """The checkpoint's name in a marker file: `latest`, `best` or `sound`; None without one."""
    try:
        name = (folder / marker).read_text(errors="replace").strip()
    except OSError:
        return None
    return name if OWN.fullmatch(name) else None


def own(folder: Path) -> list[Path]:
    """All checkpoints of this program in a folder, by step, damaged ones too."""
    return sorted((path for path in folder.glob("step-*") if OWN.fullmatch(path.name)), key=step_of)


def exists(run: Path) -> bool:
    """Whether the run has any checkpoint."""
    return bool(own(run / FOLDER))


def run_of(path: Path) -> Path:
    """The run that a checkpoint's folder is in. Raises UserError when it is in none."""
    for folder in path.absolute().parents:
        if folder.name == FOLDER:
            return folder.parent
    raise UserError(f"{path} is not a checkpoint within a run: RUN/{FOLDER}/step-NNNNNNNN.")


def find(run: Path, which: str = LATEST) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that `which` names: latest, best, or a path; and a sentence for each damaged one.

    A damaged `latest` is replaced by the one before it, a damaged `best` by the one with the next lowest
    error. Raises UserError when none is left.
    """
    folder = run / FOLDER
    if which not in (LATEST, BEST):
        return verified(Path(which)), []
    remarks: list[str] = []
    for path in _candidates(folder, which):
        damage = check(path)
        if not damage:
            return _read(path), remarks
        remarks.append(f"The checkpoint {path} is damaged and left out: {damage}.")
    if remarks:
        raise UserError(f"No sound checkpoint is left in {folder}. " + " ".join(remarks))
    raise UserError(
        f"{run} has no checkpoint yet; train it with: python -m trainer.run --run {shlex.quote(str(run))}"
    )


def _candidates(folder: Path, which: str) -> list[Path]:
    """All checkpoints, in the order in which they are tried."""
    paths = own(folder)[::-1]
    if which == BEST:
        errors = recorded_errors(folder)
        paths.sort(key=lambda path: (errors.get(path.name, 2.0), -step_of(path)))  # errors are 0..1
        first = best_of(folder)
    else:
        first = named(folder, LATEST)
        if first in [path.name for path in paths]:  # later ones are of another branch: tried last
            paths.sort(key=lambda path: step_of(path) > step_of(str(first)))
    return sorted(paths, key=lambda path: path.name != first)


def verified(path: Path) -> Checkpoint:
    """A checkpoint by its folder. Raises UserError when it is damaged."""
    damage = check(path)
    if damage:
        raise UserError(f"The checkpoint {path} cannot be used: {damage}.")
    return _read(path)


def check(path: Path) -> str | None:
    """The damage of a checkpoint in words, or None. Compares every file's SHA-256 with the manifest."""
    if not path.exists():
        return "it does not exist"
    try:
        sums = json_files.read(path / MANIFEST, Manifest, f"its {MANIFEST}")["sha256"]
        for name in {"tower_a.safetensors", STATE, *sums}:
            try:
                with (path / name).open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except (FileNotFoundError, ValueError):  # or a name that no file can have
                return f"{name} is missing"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if name not in sums:
                return f"{name} is missing in its {MANIFEST}"
            if found != sums[name]:
                return f"{name} does not match its checksum"
        json_files.read(path / STATE, State, f"its {STATE}")
    except JsonError as error:
        return str(error)
    return None


def _read(path: Path) -> Checkpoint:
    return Checkpoint(path, state_of(path))


def state_of(path: Path) -> dict[str, Any]:
    """The state.json of a checkpoint that `check` has found sound."""
    return {**json_files.read(path / STATE, State)}


def recorded_validation(path: Path) -> Validation | None:
    """The errors that were measured with a checkpoint; None where none were measured, or none can be read."""
    try:
        found = json_files.read(path / VALIDATION, Validation)
    except JsonError:
        return None
    wrong = (found["top1_wrong"], found["top5_wrong"])
    return found if found["images"] > 0 and all(0 <= n <= found["images"] for n in wrong) else None


def recorded_errors(folder: Path) -> dict[str, float]:
    """The measured top-1 errors of all own checkpoints, by name."""
    errors = {path.name: found["top1_error"] for path in own(folder) if (found := recorded_validation(path))}
    marked = named(folder, BEST)
    if marked and marked not in errors:
        # Version 0.1 kept the error of the best checkpoint in its state.json.
        with contextlib.suppress(JsonError):
            best = json_files.read(folder / marked / STATE, State01)["best"]
            errors |= {marked: best["top1_error"]} if best else {}
    return errors


def best_of(folder: Path) -> str | None:
    """The checkpoint with the lowest measured error, of equal ones the earliest.

    Without any measured error: the one that the marker names, as after an import of weights.
    """
    errors = recorded_errors(folder)
    if errors:
        return min(errors, key=lambda name: (errors[name], step_of(name)))
    marked = named(folder, BEST)
    return marked if marked and (folder / marked).exists() else None


def before_divergence(run: Path) -> Path | None:
    """The newest undamaged checkpoint up to the one that `sound` names: from before the loss rose."""
    sound = named(run / FOLDER, SOUND)
    for path in reversed(own(run / FOLDER)):
        if sound and step_of(path) <= step_of(sound) and check(path) is None:
            return path
    return None


def load(
    checkpoint: Checkpoint, tower: str, tensors: Mapping[str, Tensor], tower_comm: Comm | None = None
) -> None:
    """Copy one tower's file into these tensors, by name: `conv1.weight`, `momentum.conv1.weight`.

    tower_comm: the ranks that hold the same tower. Its first rank reads and sends the arrays to the others,
    whose hosts need not see the file. None: this rank is alone. Raises UserError when the file does not fit
    the tensors.
    """
    path, failure = checkpoint.path / f"tower_{tower}.safetensors", None
    found: dict[str, NDArray[np.float32]] = {}
    if tower_comm is None or tower_comm.rank == 0:
        found, failure = _read_tower(path, tensors)
    if tower_comm is not None:
        failure = tower_comm.bcast(failure)
    if failure:
        raise UserError(failure)
    for name, tensor in tensors.items():
        array = found.get(name)
        if tower_comm is not None and tower_comm.size > 1:
            array = np.empty(tuple(tensor.shape), np.float32) if array is None else array
            tower_comm.Bcast(array)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(array))


def _read_tower(
    path: Path, expected: Mapping[str, Tensor]
) -> tuple[dict[str, NDArray[np.float32]], str | None]:
    """The arrays of one tower's file, and what is wrong with it."""
    try:
        read, _ = tensors_file.read(path, expected.__contains__)
    except tensors_file.TensorsError as error:
        return {}, f"{path} cannot be read: {error}."
    for name, tensor in expected.items():
        shape = tuple(read[name].shape) if name in read else "none"
        if shape != tuple(tensor.shape):
            return {}, (
                f"{path} holds {name} of shape {shape}, this network has {tuple(tensor.shape)}: "
                "the store has another number of classes, or the network differs."
            )
    return {name: read[name].numpy() for name in expected}, None
