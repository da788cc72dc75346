"""Training batches in random order: float32 input for the CPU, and bytes for a GPU."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import torch

from preprocess.shared.cores import available_cores
from preprocess.store import open_store
from tests.benchmarks import originals
from tests.benchmarks.fused import FusedGather
from tests.benchmarks.harness import Contender, Row, rate
from tests.benchmarks.pictures import small_store
from tests.benchmarks.settings import Settings
from trainer.data.batches import TrainingBatches
from trainer.recipes import AUTO

SEED = 0


def rows(settings: Settings, scratch: Path) -> list[Row]:
    path, batch = settings.store or small_store(settings, scratch), settings.loader_batch
    store = open_store(path)
    # last_step 0: nothing is made in the background; batches are made here, one after the other
    threads = available_cores()
    batches = TrainingBatches(store, AUTO.augment, SEED, batch, torch.arange(batch), 0, 0, threads)
    loop, all_cores = (
        FusedGather(store, AUTO.augment, SEED, batch, scratch / "pictures.raw", n) for n in (1, threads)
    )
    rows = loop.raw.reshape(len(loop.raw), -1)
    gathered = np.empty((batch, rows.shape[1]), np.uint8)
    steps = [count() for _ in range(5)]

    def gather() -> None:
        np.take(rows, batches.plan(next(steps[3]))[0], axis=0, out=gathered, mode="clip")

    ours = Contender(
        "trainer.data on all cores, checksums verified, one batch after the other",
        rate(batch, lambda: batches.make(next(steps[0])), settings.seconds),
    )
    return [
        Row(
            stage=f"loader {batch} float32",
            unit="img/s",
            ours=ours,
            peer=_peer(settings, path),
            limit=Contender(
                "a NumPy memory map of raw images, one compiled loop, one reused buffer",
                rate(batch, lambda: loop(next(steps[1])), settings.seconds),
            ),
        ),
        Row(
            stage=f"loader {batch} float32, all cores",
            unit="img/s",
            ours=ours,
            limit=Contender(
                "the same loop on all cores",
                rate(batch, lambda: all_cores(next(steps[4])), settings.seconds),
            ),
        ),
        Row(
            stage=f"loader {batch} uint8",
            unit="img/s",
            ours=Contender(
                "trainer.data on all cores, whole images as a GPU gets them, checksums verified",
                rate(batch, lambda: batches.read(next(steps[2])), settings.seconds),
            ),
            limit=Contender(
                "numpy.take from the memory map into one reused buffer",
                rate(batch, gather, settings.seconds),
            ),
        ),
    ]


def _peer(settings: Settings, store: Path) -> Contender | None:
    dataset = originals.originals(store)
    if dataset is None:
        return None
    turn = originals.one_turn(dataset, settings.loader_batch)
    return Contender(
        f"torch DataLoader, {originals.WORKERS} workers, from the original JPEGs by Pillow",
        rate(originals.BATCHES * settings.loader_batch, turn, settings.seconds),
    )
