"""The least memory of a training step, from the sizes of the network alone; --dry-run measures all of it."""

from __future__ import annotations

import torch

from trainer.config import NetworkConfig
from trainer.model.network import TOWERS, Tower

OF_PARAMETER = 12  # bytes: weight, gradient and momentum in float32, or weight, its copy, gradient, momentum
OF_PIXEL = 3 * 4  # bytes of the network's input
MAPS = (55, 27, 13, 13, 13)  # pixels along the outputs of conv1 to conv5
OF_OUTPUT = 2  # bytes of each number that is kept for the backward pass, in bfloat16


def least_bytes(network: NetworkConfig, classes: int, towers: int, images: int, crop: int) -> int:
    """Bytes that a rank with so many towers needs at least, for so many images in a step; crop: pixels."""
    with torch.device("meta"):
        tower = Tower(network, classes, TOWERS[0])
    parameters = sum(p.numel() for p in tower.parameters())
    outputs = sum(side**2 * filters for side, filters in zip(MAPS, network.tower_filters, strict=True))
    return towers * (OF_PARAMETER * parameters + images * OF_OUTPUT * outputs) + images * OF_PIXEL * crop**2
