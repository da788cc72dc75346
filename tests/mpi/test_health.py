"""What a run sees of its layers: the same for any number of ranks, and right."""

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

from tests.mpi.test_parity import CLASSES, SMALL, configuration, global_batch
from trainer.parallel.topology import init_topology
from trainer.training.health import WATCHED, Observation
from trainer.training.step import Trainer

WORLD = MPI.COMM_WORLD
# Biases that leave some units at zero for the whole batch, others for most images.
NETWORK = dataclasses.replace(SMALL, init_bias=-0.2)

pytestmark = pytest.mark.mpi(min_size=2)


def observe(
    trainer: Trainer,
) -> tuple[dict[str, float], dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
    """The observation's summary; and by layer, each tower's outputs and gradients."""
    images, labels = global_batch(trainer.batch_size)
    share = trainer.positions()
    observation = Observation(trainer.towers)
    outputs: dict[str, list[np.ndarray]] = {layer: [] for layer in WATCHED}
    hooks = [
        getattr(tower, layer).register_forward_hook(
            lambda module, given, out, layer=layer: outputs[layer].append(
                out.relu().double().numpy(force=True)
            )
        )
        for layer in WATCHED
        for tower in trainer.towers
    ]
    trainer.gradients(images[share], labels[share], step=0)
    gradients = {w: [getattr(t, w).weight.grad.double().numpy() for t in trainer.towers] for w in WATCHED}
    for hook in hooks:
        hook.remove()
    observation.see_gradients(trainer.flat)
    observation.close()
    return observation.summary(trainer.transport), outputs, gradients


def test_observation_equals_numpys_over_the_whole_batch():
    config = configuration(NETWORK, batch=8)
    seen, *_ = observe(Trainer(config, init_topology("cpu"), CLASSES))
    everyone = WORLD.gather(seen)
    if WORLD.rank != 0:
        return
    _, outputs, gradients = observe(Trainer(config, init_topology("cpu", MPI.COMM_SELF), CLASSES))
    expected = {}
    for layer in WATCHED:
        y = np.concatenate(outputs[layer], axis=1)  # both towers' units
        over = (0, 2, 3) if y.ndim == 4 else 0
        expected[f"dead.{layer}"] = np.mean(y.max(axis=over) == 0)
        expected[f"activation.{layer}"] = np.sqrt(np.mean(y**2))
        expected[f"gradient.{layer}"] = np.sqrt(np.mean(np.concatenate(gradients[layer]) ** 2))
    assert 0 < max(expected[f"dead.{layer}"] for layer in WATCHED) < 1
    for theirs in everyone:
        assert theirs == pytest.approx(expected, rel=1e-4)
