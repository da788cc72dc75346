"""Two towers as the network of one device, and back, bit for bit.

On one device the towers are the halves of each layer: conv1 to fc7 stack their outputs, conv2, conv4 and
conv5 have groups=2 (each half reads its own half), and fc8, split by its inputs, joins them. Names and shapes
are those of Caffe's grouped network: conv1 [96, 3, 11, 11], conv2 [256, 48, 5, 5], ... fc8 [1000, 4096].
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.model.network import LAYERS

Weights = dict[str, Tensor]
"""<layer>.weight and <layer>.bias."""


def merge(towers: list[Weights]) -> Weights:
    """Each tower's parameters, tower a's first -> those of the single device."""
    merged = {}
    for layer in LAYERS:
        if layer == "fc8":
            merged["fc8.weight"] = torch.cat([tower["fc8.weight"] for tower in towers], dim=1)
            merged["fc8.bias"] = towers[0]["fc8.bias"].clone()
        else:
            for name in (f"{layer}.weight", f"{layer}.bias"):
                merged[name] = torch.cat([tower[name] for tower in towers])
    return merged


def split(merged: Weights, towers: int) -> list[Weights]:
    """The inverse of `merge`; fc8's bias is tower a's alone."""
    found: list[Weights] = [{} for _ in range(towers)]
    for name, tensor in merged.items():
        if name == "fc8.bias":
            found[0][name] = tensor.clone()
            continue
        parts = tensor.chunk(towers, dim=1 if name == "fc8.weight" else 0)
        for tower, part in zip(found, parts, strict=True):
            tower[name] = part.clone()
    return found
