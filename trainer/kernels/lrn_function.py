"""ReLU, LRN and pooling as an autograd function, around a backend's forward and backward pass.

Kept for the backward pass are the input and, where there is pooling, one byte for each output: the position
of the maximum in its window. All else is computed again, which costs less than reading it from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STRIDE = 2  # pixels from one pooling window to the next

Forward = Callable[..., tuple[Tensor, Tensor]]
"""(x, relu, window, n, k, alpha, beta) -> output, and the maxima's positions, uint8: none without pooling."""

Backward = Callable[..., Tensor]
"""(x, output's gradient, positions, relu, window, n, k, alpha, beta) -> the input's gradient."""


def lrn_function(forward: Forward, backward: Backward) -> Callable[..., Tensor]:
    """Join a forward and a backward pass. Both get tensors in channels_last."""

    class ReluLrnPool(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x_BCHW: Tensor, *settings: Any) -> Tensor:
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            y, position = forward(x_BCHW, *settings)
            ctx.save_for_backward(x_BCHW, position)
            ctx.settings = settings
            return y

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            x_BCHW, position = ctx.saved_tensors
            dy = grads[0].contiguous(memory_format=torch.channels_last)
            dx = backward(x_BCHW, dy, position, *ctx.settings)
            return dx, *(None for _ in ctx.settings)

    function: Callable[..., Tensor] = ReluLrnPool.apply
    return function


def empty_outputs(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """Memory for the forward pass' two results, in channels_last."""
    if window is None:
        return torch.empty_like(x_BCHW), x_BCHW.new_empty(0, dtype=torch.uint8)
    B, C, H, W = x_BCHW.shape
    h, w = ((side - window) // STRIDE + 1 for side in (H, W))
    y, position = (
        torch.empty(B, C, h, w, dtype=dtype, device=x_BCHW.device, memory_format=torch.channels_last)
        for dtype in (x_BCHW.dtype, torch.uint8)
    )
    return y, position


def empty_gradient(
    x_BCHW: Tensor,
    dy_BChw: Tensor,
    position: Tensor,
    relu: bool,
    window: int | None,
    n: int,
    k: float,
    alpha: float,
    beta: float,
) -> Tensor:
    """Memory for the backward pass' result, in channels_last."""
    return torch.empty_like(x_BCHW)
