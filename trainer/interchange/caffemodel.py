"""Reads Caffe's .caffemodel: the layers of a trained network, with their settings and weights.

The numbers of the fields are those of caffe.proto (BVLC/caffe, src/caffe/proto). Files of 2013 and 2014 have
V1LayerParameter under `layers`, later ones LayerParameter under `layer`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.errors import UserError
from trainer.interchange.layers import (
    Array,
    Arrays,
    Conv,
    Described,
    Dropout,
    Layer,
    Linear,
    Lrn,
    Pool,
    Relu,
    other_network,
    settings,
)
from trainer.interchange.wire import Message, WireError

V1_LAYERS, LAYERS = 2, 100
"""The fields of NetParameter."""


class Numbers(NamedTuple):
    """The fields of a layer."""

    name: int
    kind: int
    bottom: int
    top: int
    blobs: int
    convolution: int
    dropout: int
    inner_product: int
    lrn: int
    pooling: int
    relu: int
    transform: int
    data: tuple[int, int]
    """Of a database and of a list of images: in old files they have what `transform` has in others."""
    shape: int | None
    """Of an Input layer."""


V1 = Numbers(4, 5, 2, 3, 6, 10, 12, 17, 18, 19, 30, 36, (11, 15), None)
NEW = Numbers(1, 2, 3, 4, 7, 106, 108, 117, 118, 121, 123, 100, (107, 115), 143)

V1_KINDS = {
    **{1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 12: "ImageData", 14: "InnerProduct"},
    **{15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split"},
    **{9: "HDF5Data", 24: "WindowData", 29: "MemoryData", 32: "DummyData", 36: "Silence", 8: "Flatten"},
}
INPUTS = {"Data", "ImageData", "MemoryData", "HDF5Data", "WindowData", "DummyData", "Input"}
AFTER = {"Softmax", "SoftmaxWithLoss", "Accuracy", "Silence"}
COPIES = {"Split", "Flatten"}
SIDE = 227
"""Of the crops of all of BVLC's networks of this kind."""


def is_net(message: Message) -> bool:
    """Whether a file is a NetParameter with layers."""
    return message.is_message(V1_LAYERS) or message.is_message(LAYERS)


def is_blob(message: Message) -> bool:
    """Whether a file is a BlobProto, as mean images are."""
    return message.is_message(5) or message.is_message(8)


def read(path: Path, net: Message) -> tuple[Arrays, Described]:
    """The weights by this project's names, and the settings that the file has.

    Raises UserError for another network, WireError for a damaged file.
    """
    if any(1 in layer for layer in net.messages(V1_LAYERS)):
        raise UserError(
            f"{path} is in Caffe's format of 2013 (V0), which is not read: rewrite it with Caffe's "
            "upgrade_net_proto_binary OLD.caffemodel NEW.caffemodel."
        )
    f, layers = (NEW, net.messages(LAYERS)) if LAYERS in net else (V1, net.messages(V1_LAYERS))
    found: list[Layer] = []
    at, same = "", dict[str, str]()
    for layer in layers:
        kind = _kind(layer, f)
        bottoms, tops = ([same.get(name, name) for name in layer.texts(n)] for n in (f.bottom, f.top))
        if kind in COPIES:
            same |= dict.fromkeys(tops, bottoms[0] if bottoms else "")
        elif kind not in INPUTS | AFTER:
            name = layer.text(f.name)
            if found and bottoms != [at]:
                raise other_network(path, f"{name} reads {bottoms}, and the layer before it makes {at}")
            found.append(_layer(path, kind, name, layer, f))
            at = tops[0] if tops else ""
    side, scale, mean_3 = _input(net, layers, f)
    network, augment, weights = settings(path, found, side or SIDE)
    described = Described(
        network=network,
        augment=dataclasses.replace(augment, divisor=1 / scale),
        mean_3=mean_3,
        side_assumed=not side,
    )
    return weights, described


def _kind(layer: Message, f: Numbers) -> str:
    if f is NEW:
        return layer.text(f.kind)
    number = layer.integer(f.kind)
    return V1_KINDS.get(number, f"type {number}")


def _input(net: Message, layers: Sequence[Message], f: Numbers) -> tuple[int, float, tuple[float, ...]]:
    """Pixels along the input (0: unknown), the factor of the pixels, and the mean of each channel, if any."""
    dims = [net.integers(4), *(shape.integers(1) for shape in net.messages(8))]  # of a deploy.prototxt
    crops, scales = [0], [1.0]
    means: list[tuple[float, ...]] = []
    for layer in layers:
        if _kind(layer, f) not in INPUTS:
            continue
        transform = layer.message(f.transform)
        crops.append(transform.integer(3))
        scales.append(transform.number(1, 1.0))
        means.append(tuple(map(float, transform.floats(5))))
        for old in map(layer.message, f.data):
            crops.append(old.integer(5))
            scales.append(old.number(2, 1.0))
        if f.shape:
            dims += [shape.integers(1) for shape in layer.message(f.shape).messages(1)]
    crops += [shape[-1] for shape in dims if len(shape) >= 4]
    scale = next((scale for scale in scales if scale != 1), 1.0)
    mean = next(filter(None, means), ())
    if not 1e-6 <= scale <= 1000:
        raise WireError(f"its factor of the pixels is {scale}")
    return next(filter(None, crops), 0), scale, mean * 3 if len(mean) == 1 else mean


def _layer(path: Path, kind: str, name: str, layer: Message, f: Numbers) -> Layer:
    """One layer. Raises UserError for one that the paper's network does not have."""
    if kind == "Convolution":
        c, (weight, bias) = layer.message(f.convolution), _weights(layer, name, f)
        if set(c.integers(18)) - {1}:
            raise other_network(path, f"{name} is dilated")
        top, left = _pair(c, 3, 9, 0)
        return Conv(
            name=name,
            weight_FCHW=weight,
            bias_F=bias,
            stride=_pair(c, 6, 13, 1),
            pads=(top, left, top, left),
            groups=c.integer(5, 1),
        )
    if kind == "InnerProduct":
        weight, bias = _weights(layer, name, f)
        if layer.message(f.inner_product).integer(6):
            raise other_network(path, f"{name} is transposed")
        return Linear(name=name, weight_FI=weight, bias_F=bias)
    if kind == "ReLU" and not layer.message(f.relu).number(1, 0.0):  # a slope for negative numbers
        return Relu(name=name)
    if kind == "LRN" and not (n := layer.message(f.lrn)).integer(4):  # 1: within a channel
        return Lrn(
            name=name, n=n.integer(1, 5), k=n.number(5, 1.0), alpha=n.number(2, 1.0), beta=n.number(3, 0.75)
        )
    if kind == "Pooling" and not (p := layer.message(f.pooling)).integer(1) and not p.integer(12):  # max
        top, left = _pair(p, 4, 9, 0)
        window, stride = _pair(p, 2, 5, 0), _pair(p, 3, 7, 1)
        return Pool(name=name, window=window, stride=stride, pads=(top, left, top, left), round_up=True)
    if kind == "Dropout":
        d = layer.message(f.dropout)
        return Dropout(name=name, p=d.number(1, 0.5), inverted=bool(d.integer(2, 1)))
    raise other_network(path, f"it has no layer such as {name}, of type {kind}")


def _pair(message: Message, both: int, vertical: int, default: int) -> tuple[int, int]:
    """A size along rows and columns: a repeated field, or a field for each, the second numbered next."""
    found = message.integers(both) or [message.integer(n, default) for n in (vertical, vertical + 1)]
    return found[0], found[-1]


def _weights(layer: Message, name: str, f: Numbers) -> tuple[Array, Array]:
    blobs = layer.messages(f.blobs)
    if len(blobs) != 2:
        raise WireError(f"its layer {name} has {len(blobs)} arrays of numbers, not weights and biases")
    return array(blobs[0]), array(blobs[1])


def array(blob: Message) -> Array:
    """The numbers of a BlobProto in its shape: a view. Raises WireError where they do not fit."""
    shape = blob.message(7).integers(1) if 7 in blob else [blob.integer(n) for n in (1, 2, 3, 4)]
    values = blob.floats(8, "<f8") if 8 in blob else blob.floats(5)
    if min(shape, default=1) < 0 or math.prod(shape) != len(values):
        raise WireError(f"an array of shape {shape[:5]} has {len(values):,} numbers")
    return values.reshape(shape)
