"""A convolution in bfloat16 by the processor's matrix unit, where it has one.

`_convolve.c` does the layers forward and, as convolutions with their windows turned round, the gradients of
their inputs; `_weight_gradient.c` those of their weights. oneDNN's take 1.2 times and 1.6 times as long.

B batch, C channels, O filters, H and W of the input, h and w of the output, k pixels along a window, T in
it; P parts of a batch, R rows of sums.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.kernels.bfloat16 import as_array, narrowed
from trainer.kernels.lrn_numba import ZERO

try:
    from trainer.kernels import _convolve, _weight_gradient

    HAS_UNIT = True
except ImportError:  # another processor, or no compiler when the project was installed
    HAS_UNIT = False

LANES = 16  # channels, and filters, that the unit multiplies at a time
BLOCK = 32  # filters that keep all of its registers busy
FEW = 4  # threads that may have sums of their own: 1.8 MB for conv3


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


@numba.njit(parallel=True, cache=True, nogil=True)
def _round(sums_PROL: Any, weight_OCT: Any, bias_O: Any) -> None:
    """Add the parts up and write them where the weights have their places."""
    parts, lanes = sums_PROL.shape[0], sums_PROL.shape[3]
    filters, channels, taps = weight_OCT.shape
    for o in numba.prange(filters):
        for c in range(channels):
            for t in range(taps):
                total = ZERO
                for p in range(parts):
                    total += sums_PROL[p, c // lanes * taps + t, o, c % lanes]
                weight_OCT[o, c, t] = narrowed(total, weight_OCT[o, c, t])
        total = ZERO
        for p in range(parts):
            total += sums_PROL[p, -1, o, 0]
        bias_O[o] = narrowed(total, bias_O[o])


def gradients(x_BCHW: Tensor, dy_BOhw: Tensor, side: int, pad: int) -> tuple[Tensor, Tensor]:
    """Gradients of the weights [O, C, side, side] and of the biases [O]; all tensors are bfloat16."""
    x = as_array(x_BCHW.permute(0, 2, 3, 1).contiguous())
    dy = as_array(dy_BOhw.permute(0, 2, 3, 1).contiguous())
    channels, filters, taps = x.shape[3], dy.shape[3], side * side
    parts = _parts(torch.get_num_threads(), len(x), filters)
    sums = np.zeros((parts[0], channels // LANES * taps + 1, filters, LANES), np.float32)
    _weight_gradient.weight_gradient(x, dy, sums, x.shape, filters, side, pad, parts)
    weight = x_BCHW.new_empty(filters, channels, side, side)
    bias = x_BCHW.new_empty(filters)
    _round(sums, as_array(weight).reshape(filters, channels, taps), as_array(bias))
    return weight, bias


def _parts(threads: int, pictures: int, filters: int) -> tuple[int, int]:
    """Divide the work: pictures among few threads, each with sums of its own; among more, filters too."""
    of_filters = min(-(-threads // FEW), -(-filters // BLOCK))
    return min(max(1, threads // of_filters), -(-pictures // 2)), of_filters


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
        channels, side = weight.shape[1:3]
        of_weight, of_bias = gradients(x, dy, side, ctx.pad)
        of_x = None
        if ctx.needs_input_grad[0]:
            turned_CkkO = weight.flip(2, 3).permute(1, 2, 3, 0)
            of_x = convolve(dy, turned_CkkO, weight.new_zeros(channels), side - 1 - ctx.pad)
        return of_x, of_weight, of_bias, None, None


def convolution(
    x_BCHW: Tensor, weight_OCkk: Tensor, bias_O: Tensor | None, pad: int = 0, relu: bool = False
) -> Tensor:
    """`F.conv2d` with square windows 1 apart and `pad` zeros around; then, if asked, `F.relu`."""
    filters, channels, side = weight_OCkk.shape[:3]
    unit = HAS_UNIT and weight_OCkk.dtype == x_BCHW.dtype == torch.bfloat16 and x_BCHW.device.type == "cpu"
    known = bias_O is not None and filters % LANES == channels % LANES == 0 and pad < side and len(x_BCHW) > 0
    if unit and known and not torch.compiler.is_compiling():
        y: Tensor = _Convolution.apply(x_BCHW, weight_OCkk, bias_O, pad, relu)
        return y
    y = F.conv2d(x_BCHW, weight_OCkk, bias_O, padding=pad)
    return F.relu(y) if relu else y


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with square windows 1 apart."""

    def forward(self, x_BCHW: Tensor, relu: bool = False) -> Tensor:
        """[B, C, H, W] -> [B, O, h, w], both of the weights' dtype; with `relu` its ReLU."""
        return convolution(x_BCHW, self.weight, self.bias, int(self.padding[0]), relu)
