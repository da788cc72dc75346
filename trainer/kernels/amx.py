"""Convolutions in bfloat16 on Intel's matrix unit, AMX: `_convolve.c` and `_weight_gradient.c`.

`_convolve.c` computes the outputs and, as a convolution with the filters rotated by 180 degrees, the input's
gradient; `_weight_gradient.c` the gradients of weights and biases. oneDNN takes 1.2 times and 1.6 times as
long.

B batch, C channels, O filters, H and W of the input, h and w of the output, k pixels along a filter, T pixels
in it; P parts of a batch, each with its own sums; G groups of 16 channels and L = 16 channels in one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from preprocess.shared.cached_njit import cached_njit
from trainer.kernels.bfloat16 import as_array, from_float32
from trainer.kernels.lrn_numba import ZERO

try:
    from trainer.kernels import _convolve, _weight_gradient

    AVAILABLE = True
except ImportError:  # another processor, or no compiler when the project was installed
    AVAILABLE = False

LANES = 16  # channels, and filters, that the unit multiplies at a time
BLOCK = 32  # filters that keep all of its registers busy
MAX_THREADS = 1024  # that `_weight_gradient.c` starts
MAX_SUMS = 4  # threads that may have their own sums: 1.8 MB each for conv3


def fits(x_BCHW: Tensor, weight_OCkk: Tensor, bias_O: Tensor | None, pad: int, relu: bool) -> bool:
    """Whether the unit computes such a layer."""
    filters, channels, k, across = weight_OCkk.shape
    return (
        x_BCHW.device.type == "cpu"
        and x_BCHW.dtype == weight_OCkk.dtype == torch.bfloat16
        and bias_O is not None
        and filters % LANES == channels % LANES == 0
        and k == across
        and pad < k
        and x_BCHW.shape[0] > 0
    )


def conv2d(x_BCHW: Tensor, weight_OCkk: Tensor, bias_O: Tensor, pad: int, relu: bool) -> Tensor:
    """See `kernels.conv2d`."""
    y: Tensor = _Convolution.apply(x_BCHW, weight_OCkk, bias_O, pad, relu)
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pad: int, relu: bool) -> Tensor:
        y = convolve(x, weight.permute(0, 2, 3, 1), bias, pad, relu)
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.pad = pad
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        (dy,) = grads
        if y is not None:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)
        C, k = weight.shape[1:3]
        dweight, dbias = weight_gradient(x, dy, k, ctx.pad)
        dx = None
        if ctx.needs_input_grad[0]:
            rotated_CkkO = weight.flip(2, 3).permute(1, 2, 3, 0)
            dx = convolve(dy, rotated_CkkO, weight.new_zeros(C), k - 1 - ctx.pad)
        return dx, dweight, dbias, None, None


def convolve(x_BCHW: Tensor, weight_OkkC: Tensor, bias_O: Tensor, pad: int, relu: bool = False) -> Tensor:
    """[B, C, H, W] -> [B, O, h, w] in channels_last; all tensors are bfloat16, C and O multiples of 16.

    Sums are float32, and rounded once, with the bias.
    """
    B, _, H, W = x_BCHW.shape
    filters, k = weight_OkkC.shape[:2]
    x = as_array(x_BCHW.permute(0, 2, 3, 1).contiguous())
    weights = as_array(weight_OkkC.contiguous())
    y_BhwO = x_BCHW.new_empty(B, H + 2 * pad - k + 1, W + 2 * pad - k + 1, filters)
    y, bias = as_array(y_BhwO), bias_O.float().numpy()
    threads = min(B, torch.get_num_threads())
    _convolve.convolve(x, weights, bias, y, x.shape, filters, k, pad, relu, threads)
    return y_BhwO.permute(0, 3, 1, 2)


def weight_gradient(x_BCHW: Tensor, dy_BOhw: Tensor, k: int, pad: int) -> tuple[Tensor, Tensor]:
    """Gradients of the weights [O, C, k, k] and of the biases [O]; all tensors are bfloat16."""
    x = as_array(x_BCHW.permute(0, 2, 3, 1).contiguous())
    dy = as_array(dy_BOhw.permute(0, 2, 3, 1).contiguous())
    channels, filters = x.shape[3], dy.shape[3]
    parts = divide(torch.get_num_threads(), len(x), filters)
    sums = np.zeros((parts[0], channels // LANES * k * k + 1, filters, LANES), np.float32)
    _weight_gradient.weight_gradient(x, dy, sums, x.shape, filters, k, pad, parts)
    weight = x_BCHW.new_empty(filters, channels, k, k)
    bias = x_BCHW.new_empty(filters)
    _add_parts(sums, as_array(weight).reshape(filters, channels, k * k), as_array(bias))
    return weight, bias


def divide(threads: int, images: int, filters: int) -> tuple[int, int]:
    """Parts of the images and parts of the filters that the threads take, one of each.

    Each part of the images has its own sums, so there are few; many threads divide the filters too.
    """
    threads = min(threads, MAX_THREADS)
    of_filters = min(-(-threads // MAX_SUMS), -(-filters // BLOCK))
    return min(max(1, threads // of_filters), -(-images // 2)), of_filters


@cached_njit(parallel=True, nogil=True)
def _add_parts(sums_PGOL: Any, weight_OCT: Any, bias_O: Any) -> None:
    """Add up the parts' sums, round once, and write them in torch's layout; G = C / L * T + 1."""
    parts, lanes = sums_PGOL.shape[0], sums_PGOL.shape[3]
    filters, channels, taps = weight_OCT.shape
    for o in numba.prange(filters):
        for c in range(channels):
            for t in range(taps):
                total = ZERO
                for p in range(parts):
                    total += sums_PGOL[p, c // lanes * taps + t, o, c % lanes]
                weight_OCT[o, c, t] = from_float32(total, weight_OCT[o, c, t])
        total = ZERO
        for p in range(parts):
            total += sums_PGOL[p, -1, o, 0]
        bias_O[o] = from_float32(total, bias_O[o])
