"""Checkpoints: written beside, synced, renamed, and only then named; verified before they are read.

    runs/<name>/checkpoints/
      step-00000470/
        tower_a.safetensors   parameters, and momentum under momentum.<name>, float32
        tower_b.safetensors
        state.json            step, epoch, schedule, seed, best, world, versions
        manifest.json         SHA-256 of the three
      latest                  the name of the newest
      best                    the name of the one with the lowest validation error

Pair 0 writes. Any number of pairs, or one process, can read.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from trainer.errors import UserError
from trainer.model import TOWERS, Tower
from trainer.optim import FlatStage
from trainer.topology import Topology

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
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def versions() -> dict[str, str]:
    """What a run was made with."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def save(
    run: Path,
    towers: list[Tower],
    flat: list[list[FlatStage]],
    state: dict[str, Any],
    topology: Topology,
    keep: int,
    best: bool,
) -> None:
    """Write one checkpoint; every rank calls it, pair 0 writes. `state` holds at least `step`.

    Raises UserError when the disk does not take it; what was there before is untouched.
    """
    if topology.pair != 0:
        return
    folder = run / "checkpoints"
    target = folder / f"step-{state['step']:08d}"
    temporary = folder / f".{target.name}.partial"
    try:
        if topology.leads:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        topology.pair_comm.Barrier()
        sums: dict[str, str] = {}
        for tower, stages in zip(towers, flat, strict=True):
            sums |= _write(temporary / f"tower_{tower.name}.safetensors", _tensors(stages))
        sums = {name: s for part in topology.pair_comm.allgather(sums) for name, s in part.items()}
        if topology.leads:
            sums |= _write(temporary / "state.json", json.dumps(state, indent=1).encode())
            _write(temporary / "manifest.json", json.dumps({"sha256": sums}, indent=1).encode())
            _sync_folder(temporary)
            shutil.rmtree(target, ignore_errors=True)  # a damaged one of the same step
            temporary.rename(target)
            _sync_folder(folder)
            write_atomic(folder / LATEST, target.name.encode())
            if best:
                write_atomic(folder / BEST, target.name.encode())
            _prune(folder, keep)
    except OSError as error:
        raise UserError(
            f"The checkpoint of step {state['step']} could not be written to {folder}: {error.strerror}. "
            "Older checkpoints are untouched; make room there and start the same command again."
        ) from None


def _tensors(stages: list[FlatStage]) -> bytes:
    tensors = {}
    for stage in stages:
        for name, p in stage.parameters.items():
            tensors[name] = p.detach().cpu().numpy()
            tensors[f"momentum.{name}"] = stage.momentum(name).cpu().numpy()
    return safetensors.numpy.save(tensors)


def _write(path: Path, data: bytes) -> dict[str, str]:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {path.name: hashlib.sha256(data).hexdigest()}


def _prune(folder: Path, keep: int) -> None:
    """Keep the newest, and the best."""
    best = _named(folder, BEST)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name != best:
            shutil.rmtree(old, ignore_errors=True)


def _named(folder: Path, marker: str) -> str | None:
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
    name = _named(folder, which) or _named(folder, LATEST)
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
    for name in [f"tower_{t}.safetensors" for t in TOWERS] + ["state.json"]:
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
        tensors = safetensors.numpy.load_file(checkpoint.path / f"tower_{tower.name}.safetensors")
        for stage in stages:
            for name, p in stage.parameters.items():
                if tensors[name].shape != tuple(p.shape):
                    raise UserError(
                        f"{checkpoint.path} holds {name} of shape {tensors[name].shape}, this network has "
                        f"{tuple(p.shape)}: the store has another number of classes, or the network differs."
                    )
                p.data.copy_(torch.from_numpy(tensors[name]))
                stage.momentum(name).copy_(torch.from_numpy(tensors[f"momentum.{name}"]))
