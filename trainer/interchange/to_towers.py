"""Convert the weights of a single-device network into two towers."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from trainer.config import Config, NetworkConfig
from trainer.errors import UserError
from trainer.model.grouped import Weights, split
from trainer.model.network import LAYERS, TOWERS, Tower


def reverse_channels(weight_FCHW: Tensor) -> Tensor:
    """conv1's weights for inputs in the order blue, green, red -> those for red, green, blue."""
    return weight_FCHW.flip(1)


def with_widths_of(network: NetworkConfig, weights: Weights) -> NetworkConfig:
    """The settings with the numbers of filters and units that the weights have, two towers.

    Raises UserError when a layer cannot be halved.
    """
    counts = [len(weights[f"{layer}.weight"]) for layer in LAYERS[:7]]
    if any(count % 2 for count in counts):
        raise UserError(f"Two towers halve every layer; these have {counts} outputs.")
    c1, c2, c3, c4, c5, hidden, _ = (count // 2 for count in counts)
    dense = weights["conv2.weight"].shape[1] == 2 * c1
    return dataclasses.replace(network, towers=2, dense=dense, filters=(c1, c2, c3, c4, c5), hidden=hidden)


def build_towers(config: Config, weights: Weights, classes: int) -> list[Tower]:
    """Make the towers with these weights. Raises UserError when a layer has another shape than they need."""
    towers = []
    names = TOWERS[: config.network.towers]
    for name, part in zip(names, split(weights, len(names)), strict=True):
        tower = Tower(config.network, classes, name)
        for key, parameter in tower.named_parameters():
            if part[key].shape != parameter.shape:
                reason = (
                    f"does the store have the same {classes} classes?"
                    if key.startswith("fc8")
                    else "this is not the paper's network."
                )
                raise UserError(
                    f"{key} has the shape {tuple(part[key].shape)} in a tower where the network has "
                    f"{tuple(parameter.shape)}: {reason}"
                )
            parameter.data.copy_(part[key])
        towers.append(tower)
    return towers
