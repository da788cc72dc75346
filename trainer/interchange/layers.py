"""The layers of another program's network in order, and the settings of this project that they stand for.

`caffemodel` and `onnx_graph` read these from a file. What they have in common with the paper's network is
required, and what may differ becomes a setting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from trainer.config import AugmentConfig, NetworkConfig, Order
from trainer.errors import UserError
from trainer.model.network import LAYERS

Array = NDArray[Any]
Arrays = dict[str, Array]
"""By this project's names: <layer>.weight and <layer>.bias."""
Rounding = Literal["up", "down"]
Pads = tuple[int, int, int, int]
"""Beyond the top, left, bottom and right edge, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Any layer."""

    name: str
    """In its file."""


@dataclass(frozen=True, kw_only=True)
class Conv(Layer):
    """A convolution."""

    weight_FCHW: Array
    bias_F: Array
    stride: tuple[int, ...] = (1,)
    pads: Pads = (0, 0, 0, 0)
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Linear(Layer):
    """A fully connected layer."""

    weight_FI: Array
    bias_F: Array


@dataclass(frozen=True, kw_only=True)
class Relu(Layer):
    """max(0, x)."""


@dataclass(frozen=True, kw_only=True)
class Lrn(Layer):
    """Local response normalisation across channels; alpha is divided by n, as Caffe and ONNX do it."""

    n: int
    k: float
    alpha: float
    beta: float


@dataclass(frozen=True, kw_only=True)
class Pool(Layer):
    """Max-pooling."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    pads: Pads = (0, 0, 0, 0)
    round_up: bool = False


@dataclass(frozen=True, kw_only=True)
class Dropout(Layer):
    """Dropout; inverted: training divides what it keeps by 1 - p."""

    p: float
    inverted: bool = True


@dataclass(frozen=True, kw_only=True)
class Described:
    """The settings of a network that another program trained."""

    network: NetworkConfig
    augment: AugmentConfig
    mean_3: tuple[float, ...] = ()
    """The mean of each channel where the file has it, in the order in which conv1 reads them."""
    side_assumed: bool = False
    """The file does not have the size of the crops."""


LETTERS: dict[type[Layer], str] = {Conv: "C", Relu: "R", Lrn: "N", Pool: "P", Linear: "F", Dropout: "D"}
ORDER = re.compile("C([RNP]{3})C([RNP]{3})CRCRCRPFRD?FRD?F")
WORDS = {"R": "relu", "N": "lrn", "P": "pool"}
GEOMETRY = {"conv1": (11, 4, 0), "conv2": (5, 1, 2), **dict.fromkeys(("conv3", "conv4", "conv5"), (3, 1, 1))}
"""Pixels along a filter, between filters, and of zeros around the input."""


def other_network(path: Path, why: str) -> UserError:
    """The error for a file of another network than the paper's."""
    return UserError(f"{path} is not the paper's network and cannot be imported: {why:.600}.")


def torchvisions(path: Path) -> UserError:
    """The error for a file of torchvision's alexnet."""
    return UserError(
        f"{path} holds torchvision's alexnet, which is another network and cannot be imported: it has 64 "
        "filters in conv1, no towers and no response normalisation. Import a network of the paper's "
        "shapes, such as Caffe's bvlc_alexnet."
    )


def settings(path: Path, found: Sequence[Layer], side: int) -> tuple[NetworkConfig, AugmentConfig, Arrays]:
    """The settings of these layers, and their weights by this project's names, unchecked in shape.

    side: pixels along the input. Raises UserError for another network than the paper's.
    """
    convs = [layer for layer in found if isinstance(layer, Conv)]
    linears = [layer for layer in found if isinstance(layer, Linear)]
    pools = [layer for layer in found if isinstance(layer, Pool)]
    norms = [layer for layer in found if isinstance(layer, Lrn)]
    drops = [layer for layer in found if isinstance(layer, Dropout)] or [Dropout(name="", p=0.0)] * 2
    if convs and len(convs[0].weight_FCHW) == 64 and not norms:
        raise torchvisions(path)
    order = ORDER.fullmatch("".join(LETTERS[type(layer)] for layer in found))
    orders = ["-".join(WORDS[letter] for letter in part) for part in order.groups()] if order else []
    if not orders or not set(orders) <= set(get_args(Order)) or len(drops) == 1:
        shown = " ".join(type(layer).__name__.lower() for layer in found[:24]) or "none"
        raise other_network(
            path,
            "the paper's layers are twice conv with relu, lrn and pool, three times conv and relu, pool, and "
            f"three linear ones, and the file's are: {shown}",
        )
    if side not in (224, 227):
        raise other_network(path, f"its input has {side} pixels along a side, not 224 or 227")
    channels = 3
    for layer, conv in zip(GEOMETRY, convs, strict=True):
        _require_geometry(path, layer, conv, channels, convs[1].groups)
        channels = len(conv.weight_FCHW)
    for first, second in (norms, drops):
        if replace(first, name="") != replace(second, name=""):
            raise other_network(path, f"{first} and {second} differ")
    try:
        network = NetworkConfig(
            dense=convs[1].groups == 1,
            conv1_pad=3 if convs[0].pads[2] else 0,
            pool_rounding=_rounding(path, (side + convs[0].pads[2] - 11) // 4 + 1, pools),
            lrn_size=norms[0].n,
            lrn_k=norms[0].k,
            lrn_alpha=norms[0].alpha / norms[0].n if norms[0].n else 0.0,
            lrn_beta=norms[0].beta,
            lrn_over="both",
            conv1_order=orders[0],  # type: ignore[arg-type]
            conv2_order=orders[1],  # type: ignore[arg-type]
            dropout=drops[0].p,
            inverted_dropout=drops[0].inverted,
        )
    except UserError as wrong:  # a number outside of its range
        raise other_network(path, str(wrong).rstrip(".")) from None
    arrays = [(conv.weight_FCHW, conv.bias_F) for conv in convs] + [(x.weight_FI, x.bias_F) for x in linears]
    weights: Arrays = {}
    for layer, (weight, bias) in zip(LAYERS, arrays, strict=True):
        weights |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
    return network, AugmentConfig(crop_size=227 if side == 227 else 224), weights


def _require_geometry(path: Path, layer: str, conv: Conv, channels: int, groups: int) -> None:
    """Raise UserError for another convolution. channels: before it; groups: of conv2, conv4 and conv5."""
    kernel, stride, pad = GEOMETRY[layer]
    pads = {(pad,) * 4} | ({(0, 0, 3, 3)} if layer == "conv1" else set())
    own = min(max(groups, 1), 2) if layer in ("conv2", "conv4", "conv5") else 1
    shape, expected = list(conv.weight_FCHW.shape), [channels // own, kernel, kernel]
    if conv.groups != own or shape[1:] != expected or set(conv.stride) != {stride} or conv.pads not in pads:
        raise other_network(
            path,
            f"{conv.name} has weights of shape {shape[:5]}, stride {conv.stride}, padding {conv.pads} and "
            f"{conv.groups} groups, and {layer} has [filters, {', '.join(map(str, expected))}], stride "
            f"{stride}, padding {' or '.join(map(str, sorted(pads)))} and {own} groups",
        )


def _rounding(path: Path, side: int, pools: Sequence[Pool]) -> Rounding:
    """How pooling after conv1 and conv2 rounds. side: pixels along conv1's outputs.

    What counts is the number of outputs: padding beyond the last pixel is below every maximum. Raises
    UserError for pooling that no setting has.
    """
    sides = [side]
    for pool in pools:
        right = set(pool.window) == {3} and set(pool.stride) == {2}
        if not right or pool.pads not in ((0, 0, 0, 0), (0, 0, 1, 1)):
            raise other_network(path, f"{pool} does not pool 3x3 pixels, 2 apart")
        steps = (sides[-1] + pool.pads[2] - 3) / 2
        sides.append((math.ceil if pool.round_up else math.floor)(steps) + 1)
    for name in get_args(Rounding):
        rounded = math.ceil if name == "up" else math.floor
        first = rounded((side - 3) / 2) + 1
        if sides[1:] == [first, rounded((first - 3) / 2) + 1, 6]:
            return name
    raise other_network(path, f"pooling leaves {sides[1:]} pixels along a side")
