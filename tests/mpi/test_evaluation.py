"""The same counts in any world: 30 images divide among neither 4 nor 8 ranks, nor into batches of 4."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from trainer.config import with_changes
from trainer.data.batches import open_data
from trainer.evaluation.ensemble import Ensemble
from trainer.evaluation.results import CENTER, TEN
from trainer.evaluation.validation import evaluate
from trainer.parallel.topology import init_topology
from trainer.training.step import Trainer

from .test_parity import SMALL, configuration

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)
# Weights large enough that the networks are sure of different classes: no two scores are nearly the same.
SURE = dataclasses.replace(SMALL, init_std=0.06, init_std_conv345=0.2)


def trainers(world):
    """One after the other, three networks."""
    for seed in (1, 2, 3):
        yield Trainer(with_changes(configuration(SURE, 8), seed=seed), init_topology("cpu", world), 10)


def evaluate_together(world, batch):
    """Each network's tally of the centre crop, and their ensemble's."""
    store = open_data(Path(os.environ["TINY_STORE"]))
    ensemble, found = Ensemble(), []
    for trainer in trainers(world):
        settings = trainer.config.augment
        found.append(evaluate(trainer.network, store, settings, batch=batch, ensemble=ensemble)[CENTER])
    return [*found, ensemble.tallies([CENTER], 10, trainer.transport.all_reduce_scalars)[CENTER]]


def test_an_ensemble_and_its_classes_are_counted_alike_in_any_world():
    together = evaluate_together(WORLD, batch=4)
    assert all(tally.images_K.sum() == tally.confusion_KK.sum() == 30 for tally in together)
    if WORLD.rank == 0:
        for ours, expected in zip(together, evaluate_together(MPI.COMM_SELF, batch=9), strict=True):
            for name in ("images_K", "top1_wrong_K", "top5_wrong_K", "confusion_KK"):
                assert np.array_equal(getattr(ours, name), getattr(expected, name)), name


def ten_crops(world, store, batch):
    """Counts by kind of view."""
    trainer = next(trainers(world))
    found = evaluate(trainer.network, store, trainer.config.augment, ten_crop=True, batch=batch)
    return {views: tally.counts for views, tally in found.items()}


def test_ten_crops_are_counted_alike_in_any_world():
    store = open_data(Path(os.environ["TINY_STORE"]))
    counts = ten_crops(WORLD, store, 4)
    assert counts[CENTER].images == counts[TEN].images == len(store.val) == 30
    if WORLD.rank == 0:
        assert ten_crops(MPI.COMM_SELF, store, 9) == counts
