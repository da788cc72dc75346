"""Every gradient that a step makes, by finite differences in float64 on a small width.

The gradients are the step's own: made stage by stage, with the exchanges' adjoints between them, dropout on.
The differences are those of the reference's forward pass.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.proofs import in_float64
from trainer.config import HardwareConfig, NetworkConfig, RunConfig
from trainer.model.dropout import dropout_masks
from trainer.model.network import LAYERS, TOWERS, TwoTowerAlexNet
from trainer.parallel.topology import init_topology
from trainer.recipes import CUDA_CONVNET, PAPER
from trainer.training.step import Trainer

SMALL = NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=20, init_std=0.03, init_std_conv345=0.1)
PROGRAM = CUDA_CONVNET.network
NETWORKS = {
    "the paper's": {},
    "the program's": {
        name: getattr(PROGRAM, name)
        for name in ("conv1_order", "conv2_order", "conv2_spatial_norm", "lrn_alpha")
    },
    "pools before it activates, windows apart": {
        "conv1_order": "lrn-pool-relu",
        "conv2_order": "lrn-pool-relu",
        "overlap": False,
    },
    "dense, normalises before it activates": {
        "dense": True,
        "conv1_order": "lrn-relu-pool",
        "conv2_order": "lrn-relu-pool",
    },
    "one tower of tanh without normalisation": {"towers": 1, "activation": "tanh", "lrn": False},
}
STEP, POSITIONS = 4, torch.arange(2)


def make_trainer(changes: dict) -> Trainer:
    config = dataclasses.replace(
        PAPER,
        network=dataclasses.replace(SMALL, **changes),
        optim=dataclasses.replace(PAPER.optim, batch_size=len(POSITIONS)),
        hardware=HardwareConfig(precision="float32"),
        run=RunConfig(seed=5),
    )
    return in_float64(Trainer(config, init_topology("cpu", towers=config.network.towers), classes=7))


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_equal_finite_differences(kind):
    trainer = make_trainer(NETWORKS[kind])
    settings = trainer.config.network
    draw = torch.Generator().manual_seed(3)
    # The images' own spread, so that normalisation counts; a tanh would be flat there.
    spread = 2 if settings.activation == "tanh" else 60
    images = torch.randn(2, 3, 224, 224, dtype=torch.float64, generator=draw) * spread
    labels = torch.tensor([6, 2])
    trainer.gradients(images, labels, STEP)

    reference = TwoTowerAlexNet(settings, 7).double().requires_grad_(False)
    for ours, tower in zip(trainer.towers, reference.towers, strict=True):
        tower.load_state_dict(ours.state_dict())
    keep = {n: dropout_masks(settings, n, 5, STEP, POSITIONS, torch.device("cpu")) for n in TOWERS}

    def loss() -> float:
        return F.cross_entropy(reference(images, keep), labels).item()

    for layer in LAYERS:
        # One step for all of a layer's parameters at once, in a direction that is half the gradient and half
        # chance. Its length makes each of them change the loss by about 1e-9: the loss's own rounding, 1e-15,
        # is 1e-6 of that, and hardly a unit or a maximum changes sides.
        steps, expected = [], 0.0
        for ours, tower in zip(trainer.towers, reference.towers, strict=True):
            for name, p in getattr(tower, layer).named_parameters():
                g = getattr(ours, layer).get_parameter(name).grad
                assert g.norm() > 0, f"{layer}.{name}"
                chance = torch.randn(p.shape, dtype=torch.float64, generator=draw)
                direction = g / g.norm() + chance / chance.norm()
                steps.append((p, 1e-9 / g.norm() * direction))
                expected += (g * steps[-1][1]).sum().item()
        losses = []
        for sign in (1, -1):
            for p, step in steps:
                p += sign * step
            losses.append(loss())
            for p, step in steps:
                p -= sign * step
        found = (losses[0] - losses[1]) / 2
        assert found == pytest.approx(expected, rel=2e-5), layer
