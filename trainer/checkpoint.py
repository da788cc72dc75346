"""Checkpoints: written beside, synced, renamed, and only then named; verified before they are read.

    runs/<name>/checkpoints/
      step-00000470/
        tower_a.safetensors   parameters, and momentum under momentum.<name>, float32
        tower_b.safetensors
        state.json            step, epoch, schedule, seed, best, world, versions
        manifest.json         SHA-256 of the three
      latest                  the name of the newest
      best                    the name of the one with the lowest validation error

saving.py writes them, pair 0 alone. Any number of pairs, or one process, can read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from trainer import version
from trainer.errors import UserError
from trainer.model import Tower
from trainer.optim import FlatStage

LATEST, BEST = "latest", "best"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums were found right."""

    path: Path
    state: dict[str, Any]


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside the target, sync, rename: a reader sees the old file or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def versions() -> dict[str, str]:
    """What a run was made with."""
    return {
        "trainer": version.described(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def named(folder: Path, marker: str) -> str | None:
    """The checkpoint that `latest` or `best` names."""
    path = folder / marker
    return path.read_text().strip() if path.exists() else None


def exists(run: Path) -> bool:
    """Whether the run has any checkpoint."""
    return any((run / "checkpoints").glob("step-*"))


def find(run: Path, which: str = LATEST) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that `which` asks for: latest, best, or a path; and a sentence for each damaged one.

    A damaged `latest` falls back to the one before it. Raises UserError when nothing sound is left.
    """
    folder = run / "checkpoints"
    if which not in (LATEST, BEST):
        path = Path(which)
        damage = check(path)
        if damage:
            raise UserError(f"The checkpoint {path} cannot be used: {damage}.")
        return _read(path), []
    name = named(folder, which) or named(folder, LATEST)
    candidates = sorted(folder.glob("step-*"), reverse=True)
    if which == BEST and name:
        candidates.sort(key=lambda path: path.name != name)  # the best first, then the newest
    remarks: list[str] = []
    for path in candidates:
        damage = check(path)
        if not damage:
            return _read(path), remarks
        remarks.append(f"The checkpoint {path} is damaged and left out: {damage}.")
    if remarks:
        raise UserError(f"No sound checkpoint is left in {folder}. " + " ".join(remarks))
    raise UserError(f"{run} has no checkpoint yet; train it with: python -m trainer.run --run {run}")


def check(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file's SHA-256 against the manifest."""
    manifest = path / "manifest.json"
    if not manifest.exists():
        return "it has no manifest.json" if path.exists() else "it does not exist"
    try:
        sums = json.loads(manifest.read_bytes())["sha256"]
    except (ValueError, KeyError):
        return "its manifest.json cannot be read"
    for name in {"tower_a.safetensors", "state.json", *sums}:
        if name not in sums or not (path / name).exists():
            return f"{name} is missing"
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sums[name]:
                return f"{name} does not match its checksum"
    return None


def _read(path: Path) -> Checkpoint:
    return Checkpoint(path, json.loads((path / "state.json").read_bytes()))


def load(checkpoint: Checkpoint, towers: list[Tower], flat: list[list[FlatStage]]) -> None:
    """Copy parameters and momenta into the towers of this rank."""
    for tower, stages in zip(towers, flat, strict=True):
        path = checkpoint.path / f"tower_{tower.name}.safetensors"
        tensors = safetensors.numpy.load_file(path) if path.exists() else {}
        for stage in stages:
            for name, p in stage.parameters.items():
                shape = tensors[name].shape if name in tensors else "none"
                if shape != tuple(p.shape):
                    raise UserError(
                        f"{path} holds {name} of shape {shape}, this network has {tuple(p.shape)}: "
                        "the store has another number of classes, or the network differs."
                    )
                stage.value(name).copy_(torch.from_numpy(tensors[name]))
                stage.momentum(name).copy_(torch.from_numpy(tensors[f"momentum.{name}"]))
            stage.round()
