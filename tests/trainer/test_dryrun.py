"""What a dry run says that it counts."""

from types import SimpleNamespace

import pytest
import torch

from trainer.config import Network
from trainer.dryrun import arrays, held
from trainer.model import Tower
from trainer.optim import flatten

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
    network = Network(filters=(4, 4, 4, 4, 4), hidden=16)
    tower = Tower(network, 10, "a")
    parameters = sum(p.numel() for p in tower.parameters())
    trainer = SimpleNamespace(flat=[flatten(tower.to(dtype), dtype, travel)])
    assert held(trainer) == bytes_each * parameters
    assert arrays(trainer) == copies
