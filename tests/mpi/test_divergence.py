"""A loss that is not finite ends training on all ranks, before any parameter changes."""

import math

import numpy as np
import pytest
import torch
from mpi4py import MPI

from tests.mpi.test_parity import CLASSES, SMALL, configuration, everything, global_batch
from trainer.config import with_changes
from trainer.parallel.topology import init_topology
from trainer.training.step import DivergedError, Trainer

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_image_on_one_pair_leaves_every_weight_of_all_ranks_alone(precision, value):
    config = with_changes(configuration(SMALL, 8), precision=precision)
    trainer = Trainer(config, init_topology("cpu"), CLASSES)
    images, labels = global_batch(8)
    share = trainer.positions()
    trainer.train_step(images[share], labels[share], 0, lr=1e-3)

    def state() -> dict[str, np.ndarray]:
        masters = {f"value.{n}": a for n, a in everything(trainer, "value").items()}
        momenta = {f"momentum.{n}": a for n, a in everything(trainer, "momentum").items()}
        used = {
            f"used.{tower.name}.{n}": p.detach().double().numpy().copy()
            for tower in trainer.towers
            for n, p in tower.named_parameters()
        }
        return masters | momenta | used

    before = state()
    images[-1, 0, 112, 112] = value  # of the last pair
    with pytest.raises(DivergedError, match="The loss at step 1 is"):
        trainer.train_step(images[share], labels[share], 1, lr=1e-3)
    after = state()
    for name, array in before.items():
        assert np.array_equal(array, after[name]), name

    images[-1, 0, 112, 112] = 0.0  # and no gradient of that step is left for the next
    loss = trainer.train_step(images[share], labels[share], 1, lr=1e-3)
    assert math.isfinite(loss)
    assert all(torch.isfinite(torch.from_numpy(a)).all() for a in state().values())
