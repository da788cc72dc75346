"""Read the weights of a single-device network from a .caffemodel, .onnx, .safetensors or .npz file.

A pickle can run any code and is never read; the error message has the command that converts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.shared import json_files
from trainer.config import from_dict
from trainer.errors import UserError
from trainer.interchange import caffemodel, foreign, onnx_graph, wire
from trainer.interchange.layers import Described, torchvisions
from trainer.model.grouped import Weights
from trainer.model.network import LAYERS
from trainer.runs import tensors
from trainer.runs.formats import Exported
from trainer.runs.training_set import MEAN


class Contents(NamedTuple):
    """What a file of weights holds."""

    weights: Weights
    """conv1 to fc8, float32."""
    about: dict[str, Any] | None = None
    """Settings and classes, in an exported file of this project alone."""
    described: Described | None = None
    """Settings, in a file that has its network's layers: Caffe's or ONNX's."""


def read(path: Path) -> Contents:
    """Read a file of weights. Raises UserError, with the remedy, for any other content."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    about = described = None
    found: Mapping[str, Tensor | NDArray[Any]]
    try:
        kind = foreign.kind_of(path)
        if kind == "safetensors":
            tensors_, text = tensors.read(path)
            tensors_.pop(MEAN, None)
            found, about = tensors_, _about(path, text)
        elif kind == "npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: _array(arrays[name]) for name in arrays.files}
        elif kind == "caffemodel":
            found, described = caffemodel.read(path, wire.open_file(path))
        elif kind == "onnx":
            found, described = onnx_graph.read(path, wire.open_file(path))
        else:
            raise UserError(foreign.remedy(path, kind))
    except foreign.DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is none of {foreign.READABLE}, or it is damaged: {reason:.300}") from None
    if "classifier.6.weight" in found and found.get("features.0.weight", np.empty(0)).shape[:1] == (64,):
        raise torchvisions(path)
    expected = {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    if set(found) != expected:
        missing, unknown = _some(expected - set(found)), _some(set(found) - expected)
        raise UserError(
            f"{path} must hold conv1 to fc8, each with .weight and .bias, and nothing else; "
            f"missing: {missing}, unknown: {unknown}."
        )
    weights = {name: _without_ones(name, _as_float32(path, name, array)) for name, array in found.items()}
    _require_shapes(path, weights)
    return Contents(weights, about, described)


def _about(path: Path, text: str | None) -> dict[str, Any] | None:
    """The settings in an exported file's header; None for another program's header.

    Raises UserError for settings that this version does not know.
    """
    try:
        about = json_files.parse(text or "", dict[str, Any], "its header")
    except json_files.JsonError:
        return None
    if "config" not in about:
        return None
    try:
        from_dict(json_files.convert(about, Exported, "its header")["config"])
    except (json_files.JsonError, UserError) as error:
        raise UserError(
            f"{path} was exported by another version, or is damaged: {str(error).rstrip('.')}. "
            "Export the network anew."
        ) from None
    return about


def _array(member: NDArray[Any] | bytes) -> NDArray[Any]:
    """One member of an .npz. Raises ValueError when it is no array."""
    if isinstance(member, bytes):  # NumPy returns a member without an array's header as bytes
        raise ValueError("a part of it is no array")
    return member


def _as_float32(path: Path, name: str, array: Tensor | NDArray[Any]) -> Tensor:
    """A layer's array as float32. Raises UserError for quantised and for complex numbers."""
    if isinstance(array, Tensor):
        return array  # float32 already
    tensors.require_floating(path, name, array.dtype.name)
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        return torch.from_numpy(array.astype(np.float32))


def _some(names: Iterable[str]) -> str:
    """At most four of the names, for a message."""
    first, more = sorted(names)[:4], max(0, len(set(names)) - 4)
    return f"{first} and {more} more" if more else str(first)


def _without_ones(name: str, tensor: Tensor) -> Tensor:
    """Drop axes of length 1: old Caffe files have biases 1 x 1 x 1 x N and fc layers 1 x 1 x N x M."""
    if name.endswith(".bias"):
        return tensor.flatten()
    old = name.startswith("fc") and tensor.ndim == 4 and tensor.shape[:2] == (1, 1)
    return tensor.reshape(tensor.shape[-2:]) if old else tensor


def _require_shapes(path: Path, weights: Weights) -> None:
    """Raise UserError for axes in another order than Caffe's, layers that do not fit, or NaN and infinity."""
    previous = {"fc7": "fc6", "fc8": "fc7"}
    for layer in LAYERS:
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        order = "outputs, inputs" if layer.startswith("fc") else "filters, channels, height, width"
        right = weight.ndim == len(order.split(", ")) and len(weight) == len(bias) > 0
        if right and layer in previous:
            right = weight.shape[1] == len(weights[f"{previous[layer]}.weight"])
        if not right:
            raise UserError(
                f"{path}: {layer}.weight has the shape {list(weight.shape)} and {layer}.bias {len(bias)} "
                f"numbers; the weights must be [{order}], as Caffe and torch have them."
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise UserError(f"{path}: {layer} holds a value that is not a finite number.")
