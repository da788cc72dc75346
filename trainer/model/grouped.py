"""Convert the parameters of two towers to those of one network on one device, and back, bit for bit.

On one device the towers are the halves of each layer. The outputs of conv1 to fc7 are concatenated. conv2,
conv4 and conv5 have groups=2: each half reads its own half. fc8 is split by its inputs and reads both.
Names and shapes are those of Caffe's grouped network: conv1 [96, 3, 11, 11], conv2 [256, 48, 5, 5], ...
fc8 [1000, 4096].
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.model.network import LAYERS

Weights = dict[str, Tensor]
"""Tensors by name: <layer>.weight and <layer>.bias."""


def merge(towers: list[Weights]) -> Weights:
    """Join the parameters of the towers, tower a's first, to those of one device."""
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
    """Split the parameters of one device among the towers, as `merge` joins them; tower a gets fc8's bias."""
    found: list[Weights] = [{} for _ in range(towers)]
    for name, tensor in merged.items():
        if name == "fc8.bias":
            found[0][name] = tensor.clone()
            continue
        parts = tensor.chunk(towers, dim=1 if name == "fc8.weight" else 0)
        for tower, part in zip(found, parts, strict=True):
            tower[name] = part.clone()
    return found
