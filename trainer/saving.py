"""Writing checkpoints, in the background: training stops for a copy to memory, not for the disk.

Both ranks of pair 0 write their tower into one temporary folder; rank 0 adds the state and the manifest,
syncs, renames, and only then names the folder in `latest`. Whatever is interrupted leaves what was there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from trainer.checkpoint import BEST, LATEST, named, sync_folder, write_atomic
from trainer.errors import UserError
from trainer.model import Tower
from trainer.optim import FlatStage
from trainer.topology import Topology

Arrays = dict[str, NDArray[np.float32]]


class Writer:
    """The checkpoints of one run. Every rank makes one and calls it alike; pair 0 writes."""

    def __init__(self, run: Path, topology: Topology, keep: int) -> None:
        self._folder, self._topology, self._keep = run / "checkpoints", topology, keep
        self._comm = topology.pair_comm.Dup()  # the thread's own: the main one is busy with the step
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._memory: dict[str, Arrays] = {}
        if topology.leads:
            _tidy(self._folder)

    def save(
        self, towers: list[Tower], flat: list[list[FlatStage]], state: dict[str, Any], best: bool = False
    ) -> None:
        """Copy everything to memory and begin to write; `state` holds at least `step`.

        Waits for the checkpoint before. Raises UserError when the disk did not take that one.
        """
        if self._topology.pair != 0:
            return
        self.finish()
        for tower, stages in zip(towers, flat, strict=True):
            self._copy(tower, stages)
        self._pending = self._thread.submit(self._write, state, best)

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._pending and self._pending.done():
            self._pending.result()

    def finish(self) -> None:
        """Wait until the checkpoint is on the disk. Raises UserError when it could not be written."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def _copy(self, tower: Tower, stages: list[FlatStage]) -> None:
        memory = self._memory.setdefault(tower.name, {})
        for stage in stages:
            for name in stage.parameters:
                for key, tensor in ((name, stage.value(name)), (f"momentum.{name}", stage.momentum(name))):
                    if key not in memory:
                        memory[key] = np.empty(tuple(tensor.shape), np.float32)
                    torch.from_numpy(memory[key]).copy_(tensor)

    def _write(self, state: dict[str, Any], best: bool) -> None:
        target = self._folder / f"step-{state['step']:08d}"
        temporary = self._folder / f".{target.name}.partial"
        failure, sums = None, {}
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            sums = {
                f"tower_{name}.safetensors": _write_file(
                    temporary / f"tower_{name}.safetensors", safetensors.numpy.save(arrays)
                )
                for name, arrays in self._memory.items()
            }
        except OSError as error:
            failure = error.strerror
        # Nobody may wait for a rank whose disk is full: the failure travels like a success.
        parts = self._comm.allgather((sums, failure))
        try:
            for part, failed in parts:
                sums |= part
                failure = failure or failed
            if failure is None and self._topology.leads:
                self._complete(temporary, target, sums, state, best)
        except OSError as error:
            failure = error.strerror
        # The other rank would begin the next checkpoint beside this one, whose leader clears away all that is
        # not complete.
        failure = self._comm.bcast(failure)
        if failure is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # make room for the log
            raise UserError(
                f"The checkpoint of step {state['step']} could not be written to {self._folder}: {failure}. "
                "Older checkpoints are untouched; make room there and start the same command again."
            )

    def _complete(
        self, temporary: Path, target: Path, sums: dict[str, str], state: dict[str, Any], best: bool
    ) -> None:
        """Manifest, sync, rename, and only then the names."""
        sums["state.json"] = _write_file(temporary / "state.json", json.dumps(state, indent=1).encode())
        _write_file(temporary / "manifest.json", json.dumps({"sha256": sums}, indent=1).encode())
        sync_folder(temporary)
        if target.exists():  # of an earlier try; it stays until the new one has its name
            target.rename(self._folder / f".{target.name}.replaced")
        temporary.rename(target)
        sync_folder(self._folder)
        write_atomic(self._folder / LATEST, target.name.encode())
        if best:
            write_atomic(self._folder / BEST, target.name.encode())
        self._prune()
        _tidy(self._folder)

    def _prune(self) -> None:
        """Keep the newest, and the best."""
        best = named(self._folder, BEST)
        for old in sorted(self._folder.glob("step-*"))[: -self._keep]:
            if old.name != best:
                shutil.rmtree(old, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Clear what an interrupted writing left behind."""
    for replaced in folder.glob(".step-*.replaced"):
        target = folder / replaced.name.removeprefix(".").removesuffix(".replaced")
        if not target.exists():
            replaced.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    for partial in folder.glob(".step-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def _write_file(path: Path, data: bytes) -> str:
    """Write, sync; returns the SHA-256."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()
