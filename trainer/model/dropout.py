"""Dropout masks (paper, section 4.2): which units of fc6 and fc7 are kept, drawn by place."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer import kernels
from trainer.config import NetworkConfig
from trainer.model.network import LAYERS, TOWERS, DropoutMasks, TowerName


def dropout_masks(
    settings: NetworkConfig, name: TowerName, seed: int, step: int, positions_B: Tensor, device: torch.device
) -> DropoutMasks:
    """One tower's masks, drawn by (seed, step, layer, position in the global batch, unit)."""
    units = settings.tower_hidden
    units_F = torch.arange(units, device=device) + TOWERS.index(name) * units
    positions_B = positions_B.to(device)

    def mask(layer: str) -> Tensor:
        place = (step, LAYERS.index(layer))
        numbers_BF = kernels.uniform(seed, kernels.Purpose.DROPOUT, place, positions_B, units_F)
        return numbers_BF >= settings.dropout

    return mask
