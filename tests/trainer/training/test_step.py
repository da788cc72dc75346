"""One process against torch's own layers, autograd and the paper's formula: what all ranks must equal."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.proofs import in_float64
from tests.trainer.model.test_network import SMALL, Grouped, transplant
from trainer.config import HardwareConfig, RunConfig
from trainer.data.batches import TrainingBatches, open_data
from trainer.model.dropout import dropout_masks
from trainer.model.network import LAYERS, TOWERS
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER
from trainer.training.step import Trainer

NETWORK = dataclasses.replace(SMALL, dropout=0.5, init_std=0.03, init_std_conv345=0.1)
STEPS, BATCH, LR = 20, 2, 1e-3


@pytest.fixture(scope="module")
def twenty_steps(tiny_store):
    """Where twenty steps on real batches lead: ours, and the reference's, joined over towers; in float64."""
    config = dataclasses.replace(
        PAPER,
        network=NETWORK,
        optim=dataclasses.replace(PAPER.optim, batch_size=BATCH),
        hardware=HardwareConfig(precision="float32"),
        run=RunConfig(seed=2),
    )
    trainer = in_float64(Trainer(config, init_topology("cpu"), classes=10))
    reference = Grouped(NETWORK, 10).double()
    two = torch.nn.Module()
    two.a, two.b = trainer.towers
    transplant(two, reference)
    start = {name: p.detach().numpy().copy() for name, p in reference.named_parameters()}
    v = {name: np.zeros_like(p) for name, p in start.items()}

    # A unit's output times 0 or 1 is the same before the ReLU and after it.
    masks = {}
    for layer in ("fc6", "fc7"):
        getattr(reference, layer).register_forward_hook(lambda m, x, out, layer=layer: out * masks[layer])

    losses, expected = [], []
    loader = TrainingBatches(open_data(tiny_store), config.augment, 2, BATCH, trainer.positions(), 0, STEPS)
    for batch in loader:
        images, labels = batch.images_BCHW.double(), batch.labels_B
        for layer in ("fc6", "fc7"):
            keeps = [
                dropout_masks(NETWORK, t, 2, batch.step, torch.arange(BATCH), torch.device("cpu"))(layer)
                for t in TOWERS
            ]
            masks[layer] = torch.cat(keeps, dim=1)
        loss = F.cross_entropy(reference(images), labels)
        reference.zero_grad()
        loss.backward()
        for name, p in reference.named_parameters():
            w, g = p.detach().numpy(), p.grad.numpy()
            v[name] = 0.9 * v[name] - 0.0005 * LR * w - LR * g
            w += v[name]
        expected.append(loss.item())
        losses.append(trainer.train_step(batch.images_BCHW, labels, batch.step, LR))
    loader.close()
    ours = Grouped(NETWORK, 10).double()
    transplant(two, ours)
    return losses, expected, start, dict(ours.named_parameters()), dict(reference.named_parameters())


def test_twenty_losses_equal_the_references(twenty_steps):
    losses, expected, *_ = twenty_steps
    assert losses == pytest.approx(expected, rel=1e-7)


def test_twenty_steps_move_every_parameter_as_autograd_and_the_formula_do(twenty_steps):
    *_, start, ours, reference = twenty_steps
    assert {name.split(".")[0] for name in start} == set(LAYERS)
    for name, before in start.items():
        moved = reference[name].detach().numpy() - before
        error = ours[name].detach().numpy() - before - moved
        # The rates are float32 numbers: 0.9, 0.001 and 0.0005 are off by up to 6e-8 of themselves, and by
        # 20 steps' worth of that.
        assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(moved), name
