"""Which operations follow a layer, from the configuration: parsed once, where a tower is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import NetworkConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

# The program's second normalisation after conv2: a 5x5 window, scale 0.001 / 25, power 0.75. The sources
# that were read name no other constant; k = 2 as in its first normalisation.
SPATIAL_NORM = (5, 2.0, 0.001 / 25, 0.75)  # n, k, alpha, beta


@dataclass(frozen=True)
class Operation:
    """One operation after a layer."""

    kind: Literal["activation", "lrn", "spatial norm", "pool", "dropout"]
    relu: bool = False
    """lrn: normalise the ReLU of the input."""
    window: int | None = None
    """pool: pixels along the windows. lrn: pool the result too."""
    round_up: bool = False
    """pool: a last window that does not fit counts."""


ACTIVATION = Operation("activation")


def operations_after(settings: NetworkConfig, layer: str) -> tuple[Operation, ...]:
    """The operations after conv1 to fc7, in order. LRN joins a ReLU before it and the pooling after it.

    LRN over both towers joins no ReLU: the towers exchange what it reads. Pooling that may round up stands
    alone, for the kernels of LRN round down; of the 55 pixels that conv1's padding makes, both do the same.
    """
    window = 3 if settings.overlap else 2  # 3: windows overlap, as in the paper (section 3.4)
    round_up = settings.overlap and (settings.pool_rounding == "up" or layer == "conv5")
    rounds_down = bool(settings.conv1_pad) or not round_up
    orders = {
        "conv1": settings.conv1_order,
        "conv2": settings.conv2_order,
        "conv3": "relu",
        "conv4": "relu",
        "conv5": "relu-pool",  # the program pooled first: the same function, for both are monotonic
        "fc6": "relu-dropout",
        "fc7": "relu-dropout",
    }
    joins = settings.activation == "relu"
    found: list[Operation] = []
    for name in orders[layer].split("-"):
        last = found[-1] if found else None
        if name == "relu":
            found.append(ACTIVATION)
        elif name == "lrn" and settings.lrn:
            relu = last == ACTIVATION and joins and settings.lrn_over == "tower"
            if relu:
                found.pop()
            found.append(Operation("lrn", relu))
            if layer == "conv2" and settings.conv2_spatial_norm:
                found.append(Operation("spatial norm"))
        elif name == "pool" and last and last.kind == "lrn" and joins and rounds_down:
            found[-1] = replace(last, window=window)
        elif name == "pool":
            found.append(Operation("pool", window=window, round_up=round_up))
        elif name == "dropout" and settings.dropout > 0:
            found.append(Operation("dropout"))
    return tuple(found)


def spatial_norm(x_BCHW: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """Normalise over n x n pixels of the same map, zeros beyond its border; alpha multiplies the sum.

    Any floating-point dtype; the arithmetic is in float32 or wider.
    """
    a = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
    total = F.avg_pool2d(a * a, n, stride=1, padding=n // 2, divisor_override=1)
    return (a * (k + alpha * total) ** -beta).to(x_BCHW.dtype)
