"""Reads an .onnx file of a network as the ONNX model zoo has it (bvlcalexnet, caffenet): nodes and weights.

The numbers of the fields are those of onnx.proto (onnx/onnx). `onnx_file` writes such files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

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
    Pads,
    Pool,
    Relu,
    other_network,
    settings,
)
from trainer.interchange.wire import Message, WireError

GRAPH = 7
"""Of ModelProto."""
NODE, INITIALIZER, INPUT = 1, 5, 11
"""Of GraphProto."""
DTYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""float32, float16 and float64."""
COPIES = {"Reshape", "Flatten", "Identity"}
AFTER = {"Softmax"}
QUANTISED = re.compile("^Q|quant|Integer")
NO_PADS = (0, 0, 0, 0)


def is_model(message: Message) -> bool:
    """Whether a file is a ModelProto: its first field is a version, and it has a graph."""
    return message.is_message(GRAPH) and 1 in message and not message.is_message(1)


def read(path: Path, model: Message) -> tuple[Arrays, Described]:
    """The weights by this project's names, and the settings that the file has.

    Raises UserError for another network, WireError for a damaged file.
    """
    graph = model.message(GRAPH)
    arrays = {array.text(8): array for array in graph.messages(INITIALIZER)}
    nodes = graph.messages(NODE)
    kinds = [node.text(4) for node in nodes]
    if any(QUANTISED.search(kind) for kind in kinds):
        raise UserError(
            f"{path} holds a quantised network, whose weights are rounded to 8 bits: import the file of "
            "float32 that it was made from, such as bvlcalexnet-12.onnx."
        )
    found: list[Layer] = []
    at, same, side = "", dict[str, str](), 0
    for kind, node in zip(kinds, nodes, strict=True):
        (given, *_), outputs = node.texts(1) or [""], node.texts(2) or [""]
        read_from, name = same.get(given, given), node.text(3) or outputs[0]
        if kind == "Constant":
            arrays[outputs[0]] = node.message(5).message(5)
        elif kind in COPIES:
            same[outputs[0]] = read_from
        elif kind not in AFTER:
            if found and read_from != at:
                raise other_network(path, f"{name} reads {read_from}, and the node before it makes {at}")
            side = side or _side(graph, read_from)
            found.append(_layer(path, kind, name, node, arrays))
            at = outputs[0]
    network, augment, weights = settings(path, found, side)
    return weights, Described(network=network, augment=augment)


def _side(graph: Message, name: str) -> int:
    """Pixels along an input of the graph; 0 where the file does not have it."""
    for value in graph.messages(INPUT):
        if value.text(1) == name:
            dims = value.message(2).message(1).message(2).messages(1)
            return dims[-1].integer(1) if dims else 0
    return 0


def _layer(path: Path, kind: str, name: str, node: Message, arrays: Mapping[str, Message]) -> Layer:
    """One node. Raises UserError for one that the paper's network does not have."""
    has = {attribute.text(1): attribute for attribute in node.messages(5)}
    integer = {key: attribute.integer(3) for key, attribute in has.items() if 3 in attribute}
    number = {key: attribute.number(2, 0.0) for key, attribute in has.items() if 2 in attribute}
    integers = {key: tuple(attribute.integers(8)[:5]) for key, attribute in has.items() if 8 in attribute}
    pads: Pads = integers.get("pads", NO_PADS)  # type: ignore[assignment]
    automatic = "auto_pad" in has and bytes(has["auto_pad"].bytes(4) or b"").startswith(b"SAME")
    if len(pads) != 4 or automatic or set(integers.get("dilations", ())) - {1}:
        raise other_network(path, f"{name} is dilated, or its padding is not four numbers")
    inputs = node.texts(1)
    if kind == "Conv":
        weight, bias = _weights(path, inputs, arrays)
        stride, groups = integers.get("strides", (1,)), integer.get("group", 1)
        return Conv(name=name, weight_FCHW=weight, bias_F=bias, stride=stride, pads=pads, groups=groups)
    if (
        kind == "Gemm"
        and not integer.get("transA")
        and {number.get("alpha", 1), number.get("beta", 1)} == {1}
    ):
        weight, bias = _weights(path, inputs, arrays)
        return Linear(name=name, weight_FI=weight if integer.get("transB") else weight.T, bias_F=bias)
    if kind == "Relu":
        return Relu(name=name)
    if kind == "LRN":
        k, alpha, beta = number.get("bias", 1.0), number.get("alpha", 1e-4), number.get("beta", 0.75)
        return Lrn(name=name, n=integer.get("size", 0), k=k, alpha=alpha, beta=beta)
    if kind == "MaxPool":
        window, stride = integers.get("kernel_shape", ()), integers.get("strides", (1,))
        up = bool(integer.get("ceil_mode"))
        return Pool(name=name, window=window, stride=stride, pads=pads, round_up=up)
    if kind == "Dropout":  # the ratio is an input from opset 12 on
        ratio = array(path, arrays[inputs[1]]).item() if inputs[1:2] and inputs[1] in arrays else 0.5
        return Dropout(name=name, p=number.get("ratio", ratio))
    raise other_network(path, f"it has no node such as {name}, of type {kind}")


def _weights(path: Path, inputs: list[str], arrays: Mapping[str, Message]) -> tuple[Array, Array]:
    if len(inputs) != 3 or not set(inputs[1:]) <= set(arrays):
        raise WireError(f"{inputs[1:]} are not among its weights")
    weight, bias = (array(path, arrays[name]) for name in inputs[1:])
    return weight, bias


def array(path: Path, tensor: Message) -> Array:
    """The numbers of a TensorProto in its shape: a view.

    Raises WireError where they do not fit; UserError where they are in another file or no floating-point.
    """
    name, shape, dtype = tensor.text(8), tensor.integers(1), DTYPES.get(tensor.integer(2))
    if tensor.integer(14) == 1:
        raise UserError(
            f'{path} has its weights in another file; write both into one: python -c "import sys, onnx; '
            f'onnx.save(onnx.load(sys.argv[1]), sys.argv[2])" OLD.onnx NEW.onnx'
        )
    if dtype is None:
        raise UserError(f"{path}: {name} is not of float32, float16 or float64.")
    raw = tensor.bytes(9)
    if raw is not None:
        values = np.frombuffer(raw, dtype) if len(raw) % np.dtype(dtype).itemsize == 0 else np.empty(0, dtype)
    else:
        values = tensor.floats(10, "<f8") if dtype == "<f8" else tensor.floats(4)
    if min(shape, default=1) < 0 or math.prod(shape) != len(values):
        raise WireError(f"{name} of shape {shape[:5]} has {len(values):,} numbers")
    return values.reshape(shape)
