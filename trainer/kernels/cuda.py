"""The Triton kernels of triton_kernels.py as backends for NVIDIA GPUs.

That module imports Triton, which torch's build for GPUs brings along; it is imported by the first call.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from trainer.kernels.custom_op import custom_op
from trainer.kernels.lrn_function import empty_gradient, empty_outputs, lrn_function
from trainer.kernels.reference import max_pool2d

AVAILABLE = importlib.util.find_spec("triton") is not None and torch.cuda.is_available()


def lrn_fits(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> bool:
    """Whether the kernels take such a tensor; they compute in float32."""
    return x_BCHW.device.type == "cuda" and x_BCHW.dtype != torch.float64


@custom_op(empty_outputs)
def _forward(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    from trainer.kernels import triton_kernels

    y = triton_kernels.lrn_forward(x_BCHW, relu, n, k, alpha, beta)
    return y, x_BCHW.new_empty(0, dtype=torch.uint8)


@custom_op(empty_gradient)
def _backward(
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
    from trainer.kernels import triton_kernels

    dx: Tensor = triton_kernels.lrn_backward(x_BCHW, dy_BChw, relu, n, k, alpha, beta)
    return dx


_relu_lrn = lrn_function(_forward, _backward)


def relu_lrn_pool(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> Tensor:
    """See `kernels.relu_lrn_pool`; torch pools."""
    y = _relu_lrn(x_BCHW, relu, None, n, k, alpha, beta)
    return y if window is None else max_pool2d(y, window)


def sgd_fits(w_N: Tensor, v_N: Tensor, g_N: Tensor, rounded_N: Tensor | None, *rates: float) -> bool:
    """Whether the kernel takes such arrays; it computes in float32."""
    return w_N.device.type == "cuda" and w_N.dtype == torch.float32


def sgd_(
    w_N: Tensor,
    v_N: Tensor,
    g_N: Tensor,
    rounded_N: Tensor | None,
    momentum: float,
    lr_decay: float,
    lr: float,
) -> None:
    """See `kernels.sgd_`."""
    from trainer.kernels import triton_kernels

    rounded_N = w_N if rounded_N is None else rounded_N
    triton_kernels.sgd_(w_N, v_N, g_N, rounded_N, momentum, lr_decay, lr)
