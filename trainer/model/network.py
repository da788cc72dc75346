"""The network of section 3.5: two towers, each a list of four stages, cut where the towers meet.

    [conv1 conv2] -gather- [conv3 conv4 conv5] -gather- [fc6] -gather- [fc7 fc8] -sum-> logits

A tower has its own layers alone; nothing here communicates, and nothing here chooses how an operation is
computed: that is `trainer.kernels`. `TwoTowerAlexNet` runs both towers in one process and is the reference:
training on any number of ranks must give its results. In the dense network the towers meet before every
layer, so that it has more stages. A network of one tower has the same stages and no exchange.

B batch, C channels of one tower (2C of both), H height, W width, F hidden units of one tower, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import kernels
from trainer.config import NetworkConfig
from trainer.model.layers import Conv1, Conv2d, Linear
from trainer.model.operations import (
    ACTIVATION,
    ACTIVATIONS,
    SPATIAL_NORM,
    Operation,
    operations_after,
    spatial_norm,
)

TowerName = Literal["a", "b"]
TOWERS: tuple[TowerName, TowerName] = ("a", "b")

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
CONVOLUTIONS = ("conv2", "conv3", "conv4", "conv5")  # those 1 pixel apart
READ_BOTH = {"conv3", "fc6", "fc7"}  # fc8 reads both too, but its sum is split, not its input gathered
NEXT = dict(itertools.pairwise(LAYERS))
PREVIOUS = {after: layer for layer, after in NEXT.items()}
READ_BOTH_DENSE = READ_BOTH | {"conv2", "conv4", "conv5"}
DROPOUT_LAYERS = ("fc6", "fc7")

DropoutMasks = Callable[[str], Tensor]
"""Layer name -> its dropout mask, bool [B, F]: True = kept."""

Watch = Callable[[str, Tensor], None]
"""Is called with a layer's name and its activations, [B, C, H, W] or [B, F], before dropout."""


def read_both(settings: NetworkConfig) -> set[str]:
    """The layers whose input is gathered from both towers."""
    return READ_BOTH_DENSE if settings.dense else READ_BOTH


def stages(settings: NetworkConfig) -> list[tuple[str, ...]]:
    """The layers in groups: a new one begins before each layer that reads both towers.

    An LRN that reads both begins the stage of the layer after it.
    """
    meet = read_both(settings)
    if settings.towers == 2 and settings.lrn and settings.lrn_over == "both":
        meet = meet | {"conv2", "conv3"}
    found: list[tuple[str, ...]] = [()]
    for layer in LAYERS:
        if layer in meet:
            found.append(())
        found[-1] += (layer,)
    return found


class Tower(nn.Module):
    """One tower: 48-128-192-192-128 filters and 2048-2048 units, and its share of the K logits.

    Layers that read both towers take twice their own tower's width: conv3, fc6 and fc7. fc8 is split by its
    inputs: each tower adds its share of all K logits, and only tower a adds the bias.
    """

    def __init__(self, settings: NetworkConfig, classes: int, name: TowerName) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = settings.tower_filters
        hidden = settings.tower_hidden
        both = settings.towers  # how much wider the inputs of a layer that reads all towers are
        own = both if settings.dense else 1
        self.settings = settings
        self.name = name
        self.stages = stages(settings)
        self.watch: Watch | None = None
        self.conv1 = Conv1(c1, settings.conv1_pad)
        self.conv2 = Conv2d(own * c1, c2, 5, padding=2)
        self.conv3 = Conv2d(both * c2, c3, 3, padding=1)
        self.conv4 = Conv2d(own * c3, c4, 3, padding=1)
        self.conv5 = Conv2d(own * c4, c5, 3, padding=1)
        self.fc6 = Linear(both * c5 * 6 * 6, hidden)
        self.fc7 = Linear(both * hidden, hidden)
        self.fc8 = Linear(hidden, classes, bias=name == "a")
        self.layers: dict[str, Any] = dict(self.named_children())
        self.after: dict[str, tuple[Operation, ...]] = {}
        """The operations after each layer but fc8, on this tower's outputs."""
        self.before: dict[str, tuple[Operation, ...]] = {}
        """The operations before a layer, on both towers' outputs: LRN over both, and what follows it."""
        self.relu_within: set[str] = set()
        """The convolutions that compute the ReLU after them themselves."""
        for layer in LAYERS[:-1]:
            operations = operations_after(settings, layer)
            if settings.activation == "relu" and layer in CONVOLUTIONS and operations[0] == ACTIVATION:
                self.relu_within.add(layer)
                operations = operations[1:]
            kinds = [operation.kind for operation in operations]
            if both == 2 and settings.lrn_over == "both" and "lrn" in kinds:
                at = kinds.index("lrn")
                self.before[NEXT[layer]] = operations[at:]
                operations = operations[:at]
            self.after[layer] = operations
        self.take_half = set(self.before) - read_both(settings)
        """The layers that read their own tower's half of what the operations before them give."""

    def stage(self, index: int, x: Tensor, masks: DropoutMasks | None = None) -> Tensor:
        """Run one of the stages on both towers' outputs of the one before (stage 0: on the images).

        masks: of dropout, in training. None means evaluation: all units are kept, and their outputs are
        multiplied by the probability of being kept (paper, section 4.2).
        """
        for layer in self.stages[index]:
            x = self._layer(layer, x, masks)
        return x

    def calls(self) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        """(layer, operation of `trainer.kernels`, arguments) for each call of a step on one small image."""
        s = self.settings
        for layer, module in self.layers.items():
            weight, bias = module.weight, module.bias
            x = weight.new_empty(1, *weight.shape[1:])
            if layer == "conv1":
                yield layer, "conv1", (weight.new_empty(1, 3, 16, 16), weight, bias, module.pad)
            elif layer in CONVOLUTIONS:
                relu = layer in self.relu_within
                yield layer, "conv2d", (x, weight, bias, module.padding[0], relu)
            else:
                yield layer, "linear", (x, weight, bias)
            over_both = self.before.get(NEXT.get(layer, ""), ())
            for operation in (*self.after.get(layer, ()), *over_both):
                if operation.kind == "lrn":
                    y = weight.new_empty(1, len(weight) * (2 if over_both else 1), 8, 8)
                    constants = s.lrn_size, s.lrn_k, s.lrn_alpha, s.lrn_beta
                    yield layer, "relu_lrn_pool", (y, operation.relu, operation.window, *constants)

    def _layer(self, layer: str, x: Tensor, masks: DropoutMasks | None) -> Tensor:
        module = self.layers[layer]
        for operation in self.before.get(layer, ()):
            x = self._operate(operation, PREVIOUS[layer], x, masks)
        if layer in self.take_half:
            x = self._half(x)
        if layer == "fc6":
            x = x.flatten(1)  # also of channels_last: channel, row, column, so that tower a comes first
        if layer == "fc8":
            x = module(x)
            return x.to(torch.promote_types(x.dtype, torch.float32))  # the towers' logits are added up
        if layer in self.relu_within:
            x = module(x, relu=True)
            self._show(layer, x)
        else:
            x = module(x)
        for operation in self.after[layer]:
            x = self._operate(operation, layer, x, masks)
        return x

    def _operate(self, operation: Operation, layer: str, x: Tensor, masks: DropoutMasks | None) -> Tensor:
        s = self.settings
        if operation.kind == "lrn":
            if operation.relu and self.watch:
                self._show(layer, F.relu(x.detach()))  # again, so that the result is the same unwatched
            constants = s.lrn_size, s.lrn_k, s.lrn_alpha, s.lrn_beta
            return kernels.relu_lrn_pool(x, operation.relu, operation.window, *constants)
        if operation.kind == "spatial norm":
            return spatial_norm(x, *SPATIAL_NORM)
        if operation.kind == "pool":
            assert operation.window
            return kernels.max_pool2d(x, operation.window, ceil=operation.round_up)
        if operation.kind == "dropout":
            if s.inverted_dropout:
                return x if masks is None else x * masks(layer) / (1 - s.dropout)
            return x * (1 - s.dropout if masks is None else masks(layer))
        x = ACTIVATIONS[s.activation](x)
        self._show(layer, x)
        return x

    def _half(self, x_BCHW: Tensor) -> Tensor:
        """This tower's channels of both towers' [B, 2C, H, W]."""
        return x_BCHW.chunk(2, dim=1)[TOWERS.index(self.name)]

    def _show(self, layer: str, x: Tensor) -> None:
        if self.watch:
            both = x.shape[1] > len(self.layers[layer].weight)  # an activation after LRN over both
            self.watch(layer, (self._half(x) if both else x).detach())


class TwoTowerAlexNet(nn.Module):
    """Both towers (or the only one) in one process, in lockstep: the reference."""

    def __init__(self, settings: NetworkConfig, classes: int) -> None:
        super().__init__()
        self.towers = [Tower(settings, classes, name) for name in TOWERS[: settings.towers]]
        for tower in self.towers:
            self.add_module(tower.name, tower)

    def forward(self, x_BCHW: Tensor, masks: dict[TowerName, DropoutMasks] | None = None) -> Tensor:
        """Images float32 [B, 3, 224, 224] -> logits float32 [B, K]."""
        x, last = x_BCHW, len(self.towers[0].stages) - 1
        for index in range(last + 1):
            parts = [t.stage(index, x, masks[t.name] if masks else None) for t in self.towers]
            x = torch.cat(parts, dim=1) if index < last else torch.stack(parts).sum(0)
        return x
