"""The receptive field of a layer's units: the part of the network's input that one output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from trainer.model.standalone import AlexNet, SpatialNorm


@dataclass(frozen=True)
class ReceptiveField:
    """Squares of input pixels, one for each place of a layer's output."""

    side: int
    """Pixels along the square."""
    stride: int
    """Pixels between the squares of neighbouring places."""
    start: int
    """First pixel of the first place's square: 0, or below it where layers are padded."""

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Top and left pixel of the square of one place of the output; may be outside of the input."""
        return self.start + row * self.stride, self.start + column * self.stride


def receptive_field(network: AlexNet, name: str) -> ReceptiveField | None:
    """The receptive field of the outputs of the submodule `name`, such as pool5; None: all of the input.

    Each window of k places, s apart, makes the field (k - 1) strides wider and multiplies the stride by s.
    """
    side, stride, start = 1, 1, 0
    for child, layer in network.named_children():
        if isinstance(layer, nn.Flatten):
            break
        window, step, pad = _window(layer)
        side += (window - 1) * stride
        start -= pad * stride
        stride *= step
        if child == name:
            return ReceptiveField(side, stride, start)
    return None


def _window(layer: nn.Module) -> tuple[int, int, int]:
    """Places along the window of a layer, places between windows, and places of padding before the first."""
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
        return _first(layer.kernel_size), _first(layer.stride), _first(layer.padding)
    if isinstance(layer, SpatialNorm):
        return layer.n, 1, layer.n // 2
    return 1, 1, 0  # the zeros before conv1 are at the right and at the bottom


def _first(sizes: Any) -> int:
    """The first of two equal sizes, or the only one."""
    return int(sizes[0] if isinstance(sizes, tuple) else sizes)
