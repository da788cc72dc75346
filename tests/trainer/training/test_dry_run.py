"""What a dry run says that it counts."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from trainer.config import HardwareConfig, NetworkConfig
from trainer.model.network import Tower
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER
from trainer.training.dry_run import arrays, held, measure
from trainer.training.optimizer import flatten
from trainer.training.step import Trainer

FLOAT, HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "travel", "bytes_each", "copies"),
    [
        (FLOAT, None, 4 + 4 + 4, "weight, gradient, momentum"),
        (FLOAT, HALF, 4 + 4 + 2 + 4, "weight, gradient, its sum over the pairs, momentum"),
        (HALF, None, 4 + 2 + 2 + 4, "weight, its rounded copy, gradient, momentum"),
        (HALF, HALF, 4 + 2 + 2 + 4, "weight, its rounded copy, gradient, momentum"),
        (
            *(HALF, FLOAT, 4 + 2 + 2 + 4 + 4),
            "weight, its rounded copy, gradient, its sum over the pairs, momentum",
        ),
    ],
)
def test_memory_is_counted_array_by_array(dtype, travel, bytes_each, copies):
    network = NetworkConfig(filters=(4, 4, 4, 4, 4), hidden=16)
    tower = Tower(network, 10, "a")
    parameters = sum(p.numel() for p in tower.parameters())
    trainer = SimpleNamespace(flat=[flatten(tower.to(dtype), dtype, travel)])
    assert held(trainer) == bytes_each * parameters
    assert arrays(trainer) == copies


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_step_keeps_is_the_images_and_no_weights(precision):
    kept = []
    for batch in (1, 2):
        config = dataclasses.replace(
            PAPER,
            network=NetworkConfig(hidden=32),
            optim=dataclasses.replace(PAPER.optim, batch_size=batch),
            hardware=HardwareConfig(precision=precision),
        )
        kept.append(measure(Trainer(config, init_topology("cpu"), classes=10))[0])
    # But conv1's, as it reads blocks: both towers' 48 filters of 48 x 3 x 3, 2 bytes each.
    of_blocks = 2 * 48 * 48 * 3 * 3 * 2 if precision == "bfloat16" else 0
    assert 2 * kept[0] - kept[1] == of_blocks
