"""The network of section 3.5: two towers, each a list of four stages, cut where the towers meet.

    [conv1 conv2] -gather- [conv3 conv4 conv5] -gather- [fc6] -gather- [fc7 fc8] -sum-> logits

A tower knows its own layers alone; nothing here communicates. `TwoTowerAlexNet` runs both towers in one
process and is the reference: training on any number of ranks must give its results. In the dense network the
towers meet before every layer, so that it has more stages. A network of one tower has the same stages and no
exchange.

B batch, C channels of one tower (2C of both), H height, W width, F hidden units of one tower, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import NetworkConfig
from trainer.kernels import space_to_depth
from trainer.kernels.conv import Conv2d
from trainer.kernels.counter_rng import Purpose, generator, uniform
from trainer.kernels.linear import Linear
from trainer.kernels.lrn import local_response_norm, spatial
from trainer.kernels.lrn_pool import lrn_pool

TowerName = Literal["a", "b"]
TOWERS: tuple[TowerName, TowerName] = ("a", "b")

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
READ_BOTH = {"conv3", "fc6", "fc7"}  # fc8 reads both too, but its sum is split, not its input gathered
READ_BOTH_DENSE = READ_BOTH | {"conv2", "conv4", "conv5"}

# The program's second normalisation after conv2: a 5x5 window, scale 0.001 / 25, power 0.75. The sources
# that were read name no other constant; k = 2 as in its first normalisation.
SPATIAL_NORM = (5, 2.0, 0.001 / 25, 0.75)  # n, k, alpha, beta

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

Keep = Callable[[str], Tensor]
"""Layer name -> which of its units speak for which sample, [B, F] of 0 and 1."""

Watch = Callable[[str, Tensor], None]
"""Is shown a layer's name and what its units say, [B, C, H, W] or [B, F], before dropout."""


def stages(settings: NetworkConfig) -> list[tuple[str, ...]]:
    """The layers in groups: a new one begins before each layer that reads both towers."""
    meet = READ_BOTH_DENSE if settings.dense else READ_BOTH
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
        self.conv1 = nn.Conv2d(3, c1, 11, stride=4)
        self.conv2 = Conv2d(own * c1, c2, 5, padding=2)
        self.conv3 = Conv2d(both * c2, c3, 3, padding=1)
        self.conv4 = Conv2d(own * c3, c4, 3, padding=1)
        self.conv5 = Conv2d(own * c4, c5, 3, padding=1)
        self.fc6 = Linear(both * c5 * 6 * 6, hidden)
        self.fc7 = Linear(both * hidden, hidden)
        self.fc8 = Linear(hidden, classes, bias=name == "a")
        # What follows each layer, in order. The program pooled conv5 before its ReLU: the same function,
        # for both are monotonic.
        self.after = {
            "conv1": settings.conv1_order,
            "conv2": settings.conv2_order,
            "conv3": "relu",
            "conv4": "relu",
            "conv5": "relu-pool",
            "fc6": "relu-dropout",
            "fc7": "relu-dropout",
        }

    def stage(self, index: int, x: Tensor, keep: Keep | None = None) -> Tensor:
        """Run one of the stages on what both towers (stage 0: the images) hand to it.

        `keep` names the units that dropout lets speak, in training; None means evaluation: all units speak
        and their outputs are multiplied by the probability of speaking (paper, section 4.2).
        """
        for layer in self.stages[index]:
            x = self._layer(layer, x, keep)
        return x

    def _layer(self, layer: str, x: Tensor, keep: Keep | None) -> Tensor:
        if layer == "fc6":
            x = x.flatten(1)  # also of channels_last: channel, row, column, so that tower a comes first
        if layer == "fc8":
            x = self.fc8(x)
            return x.to(torch.promote_types(x.dtype, torch.float32))  # shares of the logits are added up
        operations = self._joined(layer, x.device).split("-")
        if layer == "conv1":
            x = space_to_depth.conv1(self.conv1, x)
        elif layer.startswith("conv") and operations[0] == "relu" and self.settings.activation == "relu":
            x = getattr(self, layer)(x, relu=True)
            self._show(layer, x)
            operations = operations[1:]
        else:
            x = getattr(self, layer)(x)
        for operation in operations:
            x = getattr(self, f"_{operation}")(layer, x, keep)
        return x

    def _show(self, layer: str, x: Tensor) -> None:
        if self.watch:
            self.watch(layer, x.detach())

    def _show_relu(self, layer: str, x: Tensor) -> None:
        """What a ReLU within a loop says: nobody who watches may change what is computed."""
        if self.watch:
            self.watch(layer, F.relu(x.detach()))

    def _joined(self, layer: str, device: torch.device) -> str:
        """What follows a layer, where it can as one loop."""
        s, order = self.settings, self.after[layer]
        if s.activation == "relu" and s.lrn:
            if device.type == "cpu" and not (layer == "conv2" and s.conv2_spatial_norm):
                order = order.replace("relu-lrn-pool", "relu_lrn_pool").replace("lrn-pool", "lrn_pool")
            order = order.replace("relu-lrn", "relu_lrn")
        return order

    def _relu(self, layer: str, x: Tensor, keep: Keep | None) -> Tensor:
        x = ACTIVATIONS[self.settings.activation](x)
        self._show(layer, x)
        return x

    def _lrn(self, layer: str, x: Tensor, keep: Keep | None, relu: bool = False) -> Tensor:
        s = self.settings
        if not s.lrn:
            return x
        if relu:
            self._show_relu(layer, x)
        x = local_response_norm(x, s.lrn_size, s.lrn_k, s.lrn_alpha, s.lrn_beta, relu)
        return spatial(x, *SPATIAL_NORM) if layer == "conv2" and s.conv2_spatial_norm else x

    def _relu_lrn(self, layer: str, x: Tensor, keep: Keep | None) -> Tensor:
        return self._lrn(layer, x, keep, relu=True)

    def _pool(self, layer: str, x: Tensor, keep: Keep | None) -> Tensor:
        return F.max_pool2d(x, kernel_size=self._window, stride=2)

    def _lrn_pool(self, layer: str, x: Tensor, keep: Keep | None, relu: bool = False) -> Tensor:
        s = self.settings
        if relu:
            self._show_relu(layer, x)
        return lrn_pool(x, self._window, s.lrn_size, s.lrn_k, s.lrn_alpha, s.lrn_beta, relu)

    def _relu_lrn_pool(self, layer: str, x: Tensor, keep: Keep | None) -> Tensor:
        return self._lrn_pool(layer, x, keep, relu=True)

    @property
    def _window(self) -> int:
        """Side of the pooling windows; they overlap in the paper (section 3.4)."""
        return 3 if self.settings.overlap else 2

    def _dropout(self, layer: str, x_BF: Tensor, keep: Keep | None) -> Tensor:
        if self.settings.dropout == 0:
            return x_BF
        if keep is None:
            return x_BF * (1 - self.settings.dropout)
        return x_BF * keep(layer)


class TwoTowerAlexNet(nn.Module):
    """Both towers (or the only one) in one process, in lockstep: the reference."""

    def __init__(self, settings: NetworkConfig, classes: int) -> None:
        super().__init__()
        self.towers = [Tower(settings, classes, name) for name in TOWERS[: settings.towers]]
        for tower in self.towers:
            self.add_module(tower.name, tower)

    def forward(self, x_BCHW: Tensor, keep: dict[TowerName, Keep] | None = None) -> Tensor:
        """Images float32 [B, 3, 224, 224] -> logits float32 [B, K]."""
        x, last = x_BCHW, len(self.towers[0].stages) - 1
        for index in range(last + 1):
            parts = [t.stage(index, x, keep[t.name] if keep else None) for t in self.towers]
            x = torch.cat(parts, dim=1) if index < last else torch.stack(parts).sum(0)
        return x


def build_tower(settings: NetworkConfig, classes: int, name: TowerName, seed: int) -> Tower:
    """A tower with its initial weights, the same ones in any process."""
    with torch.device("meta"):
        tower = Tower(settings, classes, name)
    tower = tower.to_empty(device="cpu")
    for layer in LAYERS:
        module = getattr(tower, layer)
        draw = generator(seed, Purpose.WEIGHTS, TOWERS.index(name), LAYERS.index(layer))
        weight = torch.from_numpy(draw.standard_normal(tuple(module.weight.shape), dtype="float32"))
        with torch.no_grad():
            module.weight.copy_(weight * init_std(settings, layer, module.weight))
            if module.bias is not None:
                ones = layer in ("conv2", "conv4", "conv5", "fc6", "fc7")
                module.bias.fill_(settings.init_bias if ones else 0.0)
    return tower


def init_std(settings: NetworkConfig, layer: str, weight: Tensor) -> float:
    """Standard deviation of a layer's initial weights."""
    if settings.init == "gaussian":
        return settings.init_std_conv345 if layer in ("conv3", "conv4", "conv5") else settings.init_std
    # Scaled: sqrt(2 / fan_in) keeps the mean square of ReLU units the same from layer to layer (He et al.,
    # 2015). What stands between two layers here changes it, and is undone in the weights that follow: LRN
    # divides small activations by k^beta = 1.68, dropout silences a share of the inputs.
    fan_in = weight[0].numel() * (settings.towers if layer == "fc8" else 1)  # fc8's inputs are split
    std = (2 / fan_in) ** 0.5
    if settings.lrn and layer in ("conv2", "conv3"):
        std *= settings.lrn_k**settings.lrn_beta
    if layer in ("fc7", "fc8"):
        std /= (1 - settings.dropout) ** 0.5
    # With all layers alike fc8 would learn hundreds of times faster, relative to its weights, than those
    # below, and a rate that it survives would leave them where they are. fc7 starts a tenth as large.
    return std * {"fc7": 0.1, "fc8": 3.0}.get(layer, 1.0)


def dropout_keep(
    settings: NetworkConfig, name: TowerName, seed: int, step: int, positions_B: Tensor, device: torch.device
) -> Keep:
    """The units of one tower that speak, drawn by (seed, step, layer, position in the global batch, unit)."""
    units = settings.tower_hidden
    units_F = torch.arange(units, device=device) + TOWERS.index(name) * units
    rows_B = positions_B.to(device)

    def keep(layer: str) -> Tensor:
        place = (step, LAYERS.index(layer))
        return uniform(seed, Purpose.DROPOUT, place, rows_B, units_F) >= settings.dropout

    return keep
