"""The layers whose outputs can be had: their names, their shapes, and what they are.

This file imports no torch, so that `trainer.features --help` can show the table at once.

B batch, C channels and F units of both towers (tower a's first), H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.model.standalone import AlexNet


class Layer(NamedTuple):
    """An output of one of the network's layers."""

    module: str
    """The module of `AlexNet` that returns it."""
    shape: tuple[int, ...]
    """[C, H, W] or [F] in the paper's network with its 1000 classes."""
    text: str


LAYERS = {
    "conv1.linear": Layer("conv1", (96, 55, 55), "before ReLU"),
    "conv1": Layer("relu1", (96, 55, 55), "after ReLU"),
    "norm1": Layer("norm1", (96, 55, 55), "after local response normalisation"),
    "pool1": Layer("pool1", (96, 27, 27), "after pooling"),
    "conv2.linear": Layer("conv2", (256, 27, 27), "before ReLU"),
    "conv2": Layer("relu2", (256, 27, 27), "after ReLU"),
    "norm2": Layer("norm2", (256, 27, 27), "after local response normalisation"),
    "pool2": Layer("pool2", (256, 13, 13), "after pooling"),
    "conv3.linear": Layer("conv3", (384, 13, 13), "before ReLU"),
    "conv3": Layer("relu3", (384, 13, 13), "after ReLU"),
    "conv4.linear": Layer("conv4", (384, 13, 13), "before ReLU"),
    "conv4": Layer("relu4", (384, 13, 13), "after ReLU"),
    "conv5.linear": Layer("conv5", (256, 13, 13), "before ReLU"),
    "conv5": Layer("relu5", (256, 13, 13), "after ReLU"),
    "pool5": Layer("pool5", (256, 6, 6), "after pooling"),
    "fc6.linear": Layer("fc6", (4096,), "before ReLU"),
    "fc6": Layer("relu6", (4096,), "after ReLU"),
    "drop6": Layer("drop6", (4096,), "as fc7 reads it: times 0.5 with the paper's dropout"),
    "fc7.linear": Layer("fc7", (4096,), "before ReLU"),
    "fc7": Layer("relu7", (4096,), "after ReLU"),
    "drop7": Layer("drop7", (4096,), "as fc8 reads it: times 0.5 with the paper's dropout"),
    "fc8": Layer("fc8", (1000,), "logits"),
    "prob": Layer("fc8", (1000,), "softmax outputs"),
}
"""By name, in the order in which they are computed. With another --conv1-order than the paper's, the outputs
of ReLU, normalisation and pooling after conv1 are computed in that order, and their shapes are others."""

SAME = {
    same: name
    for name, layer in LAYERS.items()
    if layer.module.startswith("relu")
    for same in (f"{name}.relu", layer.module)
}
"""Other names of outputs after ReLU: conv1.relu and relu1 are conv1."""


def table() -> str:
    """A line for each layer: its name, its shape and what it is."""
    rows = [(name, "x".join(map(str, of.shape)), of.text) for name, of in LAYERS.items()]
    return "\n".join(f"  {name:<14}{shape:<11}{text}" for name, shape, text in rows)


def refusal(names: Sequence[str], module: AlexNet | None = None) -> str:
    """The sentence that refuses the first name that is no layer, or that the module lacks; "" for none."""
    there = dict(module.named_modules()) if module else None
    known = [name for name, of in LAYERS.items() if there is None or of.module in there]
    for name in names:
        if SAME.get(name, name) not in known:
            return f"{name} is not among this network's layers: {', '.join(known)}."
    return "" if names else f"No layer is named; there are: {', '.join(known)}."


def outputs(module: AlexNet, x_BCHW: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute the layers up to the last one that is named.

    Args:
        x_BCHW: the network's input, float32 [B, 3, H, W].
        names: of `LAYERS` or `SAME`; `refusal` has found them good.

    Returns: by name the tensors that forward hooks on these modules get; [B, C, H, W] or [B, F].
    """
    layers = {name: LAYERS[SAME.get(name, name)] for name in names}
    wanted = {layer.module for layer in layers.values()}
    found, x = {}, x_BCHW
    for name, layer in module.named_children():
        x = layer(x)
        if name in wanted:
            found[name] = x
        if len(found) == len(wanted):
            break
    return {n: found[of.module].softmax(1) if n == "prob" else found[of.module] for n, of in layers.items()}
