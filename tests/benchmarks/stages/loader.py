"""Training batches in random order, float32: read, crop, mirror, mean image, colour shift."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import torch

from preprocess.store import open_store
from tests.benchmarks import originals
from tests.benchmarks.fused import FusedGather
from tests.benchmarks.harness import Contender, Row, rate
from tests.benchmarks.pictures import small_store
from tests.benchmarks.settings import Settings
from trainer.config import AUTO
from trainer.data import TrainingBatches

SEED = 0


def rows(settings: Settings, scratch: Path) -> list[Row]:
    path, batch = settings.store or small_store(settings, scratch), settings.loader_batch
    store = open_store(path)
    # no step is asked for in the background: batches are made here, one after the other
    batches = TrainingBatches(store, AUTO.augment, SEED, batch, torch.arange(batch), 0, 0)
    fused = FusedGather(store, AUTO.augment, SEED, batch, scratch / "pictures.raw")
    ours, limit = count(), count()
    return [
        Row(
            stage=f"loader {batch} float32",
            unit="img/s",
            ours=Contender(
                "trainer.data, one batch after the other",
                rate(batch, lambda: batches.make(next(ours)), settings.seconds),
            ),
            peer=_peer(settings, path),
            limit=Contender(
                "a NumPy memory map of raw pictures, one compiled loop, one thread, one reused buffer",
                rate(batch, lambda: fused(next(limit)), settings.seconds),
            ),
        )
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
