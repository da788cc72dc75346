"""Writes checkpoints in a thread: training waits for a copy to memory, not for the disk.

Both ranks of pair 0 write their tower into one temporary folder. Rank 0 adds the state and the manifest,
syncs, renames the folder, and then writes its name to `latest`. An interruption leaves the earlier
checkpoints as they were. The validation errors are added to the finished checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.shared.files import sync_folder, write_atomically
from trainer.errors import UserError
from trainer.parallel.topology import Topology
from trainer.runs import checkpoint, going_back, training_set
from trainer.runs.checkpoint import BEST, LATEST, MANIFEST, SOUND, STATE, VALIDATION, name_of, named, own
from trainer.runs.training_set import TrainingSet

Arrays = dict[str, NDArray[np.float32]]

AFTER_ERROR = 60.0
"""Seconds that a checkpoint under way has to be completed when this rank fails."""


class Writer:
    """The checkpoints of one run. Every rank makes one and makes the same calls; pair 0 writes."""

    def __init__(self, run: Path, topology: Topology, keep: int, trained_on: TrainingSet) -> None:
        self._folder, self._topology, self._keep = run / checkpoint.FOLDER, topology, keep
        self._trained_on = trained_on.to_bytes()
        self._comm = topology.pair_comm.Dup()  # for the thread: the main one uses pair_comm in the step
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._step: int | None = None
        """The step of the newest checkpoint until the next step is taken."""
        self._proven: int | None = None
        """The step of the newest checkpoint that gave a finite, not too large loss."""
        self._memory: dict[str, Arrays] = {}
        if topology.is_root:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._comm.Barrier()  # the other rank of the pair writes there too

    def save(self, towers: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
        """Copy the tensors to memory and begin to write.

        towers: for each tower on this rank, "a" or "b", its tensors by name: parameters, and each momentum
        under `momentum.<name>`. state: what else is kept, at least the keys of `formats.State`.
        Waits for the checkpoint before; raises UserError when that one could not be written.
        """
        if self._topology.pair != 0:
            return
        self.finish()
        for tower, tensors in towers.items():
            arrays = self._memory.setdefault(tower, {})
            for name, tensor in tensors.items():
                if name not in arrays:
                    arrays[name] = np.empty(tuple(tensor.shape), np.float32)
                torch.from_numpy(arrays[name]).copy_(tensor.detach())
        self._step = state["step"]
        self._pending = self._thread.submit(self._write, state)

    def step_taken(self, sound: bool) -> None:
        """A step from the newest checkpoint gave a finite loss: older checkpoints may be removed.

        sound: whether that loss is small enough to be of a network that does not diverge. Raises the error
        of the thread, if there was one.
        """
        if self._step is not None and self._topology.is_root:
            self._proven = self._step if sound else self._proven
            self._thread.submit(self._prune, self._proven)  # after the write that may be under way
        self._step = None
        if self._pending and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint is on the disk. Raises UserError when it could not be written."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def wait_after_error(self) -> None:
        """Let the thread complete the checkpoint under way before an error ends this rank, and so all ranks.

        Not for ever: the error may be why the thread waits. An error of the thread adds nothing, and is lost.
        """
        if self._pending:
            wait([self._pending], AFTER_ERROR)

    def close(self) -> None:
        """Wait for the thread to end; every rank of pair 0 calls it."""
        self.finish()
        self._thread.shutdown()

    def record_validation(self, step: int, errors: Mapping[str, float]) -> None:
        """Add the errors on the validation set to the checkpoint of this step, and name the best anew.

        errors: as `checkpoint.recorded_validation` gives them.
        Waits until the checkpoint is on the disk. Raises UserError when the disk does not take it.
        """
        self.finish()
        if not self._topology.is_root:
            return
        try:
            write_atomically(self._folder / name_of(step) / VALIDATION, json.dumps(errors, indent=1).encode())
            going_back.set_markers(self._folder)
        except OSError as error:
            raise UserError(
                f"The validation error of step {step} could not be written to {self._folder}: "
                f"{error.strerror}. The checkpoint is there; make room and start the same command again."
            ) from None

    def _write(self, state: dict[str, Any]) -> None:
        target = self._folder / name_of(state["step"])
        temporary = self._folder / f".{target.name}.partial"
        failure, sums = None, {}
        try:
            temporary.mkdir(exist_ok=True)
            sums = {
                f"tower_{name}.safetensors": _write_file(
                    temporary / f"tower_{name}.safetensors", safetensors.numpy.save(arrays)
                )
                for name, arrays in self._memory.items()
            }
        except OSError as error:
            failure = error.strerror
        # A failure is sent too: no rank may wait for one whose disk is full.
        parts = self._comm.allgather((sums, failure))
        try:
            for part, failed in parts:
                sums |= part
                failure = failure or failed
            if failure is None and self._topology.is_root:
                self._complete(temporary, target, sums, state)
        except OSError as error:
            failure = error.strerror
        # Both ranks end this checkpoint before either begins the next.
        failure = self._comm.bcast(failure)
        if failure is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # make room for the log
            raise UserError(
                f"The checkpoint of step {state['step']} could not be written to {self._folder}: {failure}. "
                "Older checkpoints are untouched; make room there and start the same command again."
            )

    def _complete(self, temporary: Path, target: Path, sums: dict[str, str], state: dict[str, Any]) -> None:
        """Write state and manifest, sync, rename, and then write `latest`."""
        state = {**state, "previous": named(self._folder, LATEST)}
        sums[training_set.FILE] = _write_file(temporary / training_set.FILE, self._trained_on)
        sums[STATE] = _write_file(temporary / STATE, json.dumps(state, indent=1).encode())
        _write_file(temporary / MANIFEST, json.dumps({"sha256": sums}, indent=1).encode())
        sync_folder(temporary)
        temporary.rename(target)
        sync_folder(self._folder)
        write_atomically(self._folder / LATEST, target.name.encode())

    def resumed(self, step: int) -> None:
        """Training continues from the checkpoint of this step."""
        self._step = step

    def _prune(self, proven: int | None) -> None:
        """Write `sound`; remove all but the newest ones and those that latest, best and sound name."""
        with contextlib.suppress(OSError):
            if proven is not None and (self._folder / name_of(proven)).exists():
                write_atomically(self._folder / SOUND, name_of(proven).encode())
        whole = [path for path in own(self._folder) if (path / MANIFEST).exists()]
        kept: set[str | None] = {path.name for path in whole[-self._keep :]}
        kept |= {named(self._folder, marker) for marker in (LATEST, BEST, SOUND)}
        kept.add(checkpoint.best_of(self._folder))
        for old in whole:
            if old.name not in kept:
                pruned = self._folder / f".{old.name}.pruned"  # no half-removed checkpoint under its name
                with contextlib.suppress(OSError):
                    old.rename(pruned)
                    shutil.rmtree(pruned)


def _write_file(path: Path, data: bytes) -> str:
    """Write, sync; returns the SHA-256."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()
