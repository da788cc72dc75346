"""Loops in C with vectors of 512 bits (AVX-512 BF16): `_lrn_pool.c` and `_sgd.c`.

ReLU, LRN and pooling of the paper's layers in bfloat16 take half of the time of lrn_pool_numba.py's loops,
with the same bits (but results below 1e-38 become 0); the update takes two thirds of flat_numba.py's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.kernels.bfloat16 import as_array
from trainer.kernels.custom_op import custom_op
from trainer.kernels.lrn_function import empty_gradient, empty_outputs, lrn_function
from trainer.kernels.lrn_pool_numba import as_rows

try:
    from trainer.kernels import _lrn_pool, _sgd

    AVAILABLE = True
except ImportError:  # another processor, or no compiler when the project was installed
    AVAILABLE = False

LANES = 16  # channels are taken in groups of so many
MAX_CHANNELS = 512
PARAMETERS_A_THREAD = 1 << 16  # that are worth starting a thread for


def lrn_fits(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> bool:
    """Whether `_lrn_pool.c` computes such a layer."""
    return (
        x_BCHW.device.type == "cpu"
        and x_BCHW.dtype == torch.bfloat16
        and x_BCHW.shape[0] > 0
        and x_BCHW.shape[1] % LANES == 0
        and x_BCHW.shape[1] <= MAX_CHANNELS
        and relu
        and window == 3
        and n == 5
        and beta == 0.75
    )


@custom_op(empty_outputs)
def _forward(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    y, position = empty_outputs(x_BCHW, relu, window, n, k, alpha, beta)
    arrays = as_rows(x_BCHW), as_rows(y), as_rows(position)
    _lrn_pool.forward(*arrays, _shape(x_BCHW), k, alpha, min(len(x_BCHW), torch.get_num_threads()))
    return y, position


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
    dx = torch.empty_like(x_BCHW)
    arrays = as_rows(x_BCHW), as_rows(dy_BChw), as_rows(position), as_rows(dx)
    _lrn_pool.backward(*arrays, _shape(x_BCHW), k, alpha, min(len(x_BCHW), torch.get_num_threads()))
    return dx


relu_lrn_pool = lrn_function(_forward, _backward)


def _shape(x_BCHW: Tensor) -> tuple[int, int, int, int]:
    B, C, H, W = x_BCHW.shape
    return B, H, W, C


def sgd_fits(w_N: Tensor, v_N: Tensor, g_N: Tensor, rounded_N: Tensor | None, *rates: float) -> bool:
    """Whether `_sgd.c` takes such arrays."""
    return (
        w_N.device.type == "cpu"
        and w_N.dtype == torch.float32
        and g_N.dtype in (torch.float32, torch.bfloat16)
        and rounded_N is not None
        and rounded_N.dtype == torch.bfloat16
    )


def sgd_(
    w_N: Tensor, v_N: Tensor, g_N: Tensor, rounded_N: Tensor, momentum: float, lr_decay: float, lr: float
) -> None:
    """See `kernels.sgd_`."""
    threads = max(1, min(torch.get_num_threads(), w_N.numel() // PARAMETERS_A_THREAD))
    w, v, g, rounded = (as_array(x) for x in (w_N, v_N, g_N, rounded_N))
    _sgd.sgd(w, v, g, rounded, momentum, lr_decay, lr, threads)
