"""A tower with its initial weights, drawn by (seed, tower, layer)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer import kernels
from trainer.config import NetworkConfig
from trainer.model.network import LAYERS, TOWERS, Tower, TowerName


def empty_tower(settings: NetworkConfig, classes: int, name: TowerName, device: torch.device) -> Tower:
    """A tower whose parameters, float32, have no values yet."""
    with torch.device("meta"):
        tower = Tower(settings, classes, name)
    # `Module.to_empty` would do, but its torch.empty_like of a tensor on meta imports SymPy: half a second.
    return tower._apply(lambda p: torch.empty(p.shape, dtype=p.dtype, device=device))


def build_tower(settings: NetworkConfig, classes: int, name: TowerName, seed: int) -> Tower:
    """A tower with its initial weights, the same ones in any process."""
    tower = empty_tower(settings, classes, name, torch.device("cpu"))
    for layer, module in tower.layers.items():
        place = TOWERS.index(name), LAYERS.index(layer)
        draw = kernels.generator(seed, kernels.Purpose.WEIGHTS, *place)
        with torch.no_grad():
            draw.standard_normal(dtype="float32", out=module.weight.numpy())
            module.weight.mul_(init_std(settings, layer, module.weight))
            if module.bias is not None:
                ones = layer in ("conv2", "conv4", "conv5", "fc6", "fc7")
                module.bias.fill_(settings.init_bias if ones else 0.0)
    return tower


def init_std(settings: NetworkConfig, layer: str, weight: Tensor) -> float:
    """Standard deviation of a layer's initial weights."""
    if settings.init == "gaussian":
        return settings.init_std_conv345 if layer in ("conv3", "conv4", "conv5") else settings.init_std
    # Scaled: sqrt(2 / fan_in) keeps the mean square of ReLU units the same from layer to layer (He et al.,
    # 2015). Two operations between layers change it, which the next layer's weights undo: LRN divides small
    # activations by k^beta = 1.68, dropout sets a share of the inputs to zero.
    fan_in = weight[0].numel() * (settings.towers if layer == "fc8" else 1)  # fc8's inputs are split
    std = (2 / fan_in) ** 0.5
    if settings.lrn and layer in ("conv2", "conv3"):
        std *= settings.lrn_k**settings.lrn_beta
    if layer in ("fc7", "fc8"):
        std /= (1 - settings.dropout) ** 0.5
    # With all layers alike fc8 would learn hundreds of times faster, relative to its weights, than those
    # below: a learning rate small enough for it would hardly move them. fc7 starts a tenth as large. So does
    # conv1, whose filters would else remain the noise that they are drawn as.
    return std * {"conv1": 0.1, "fc7": 0.1, "fc8": 3.0}.get(layer, 1.0)
