"""ReLU, local response normalisation and max-pooling in one pass each way, for the CPU.

What conv1 and conv2 say are the largest arrays of the network, and memory is what a step waits for. Here a
row of pixels is normalised when a window first reaches it, and pooled while it is in the cache. Kept for the
backward pass are the input and, a byte each, which number of its window every output is. The bits are those
of the operations one after the other, both ways, but that bfloat16 is not rounded between the gradients of
the two. `_lrn_pool.c` is the same for the paper's layers in bfloat16, by hand: twice as fast.

B batch, H and W of the input, h and w of the output, C channels; N = W C and M = w C numbers of a line.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from trainer.kernels.bfloat16 import as_array, narrowed, wide_vectors, widened
from trainer.kernels.custom_op import like, opaque
from trainer.kernels.lrn import constants
from trainer.kernels.lrn_numba import ZERO, Constants, gradient_tile, normalise_tile, tile_arrays, tile_size

try:
    from trainer.kernels import _lrn_pool
except ImportError:  # another processor, or no compiler when the project was installed
    _lrn_pool = None  # type: ignore[assignment]

STRIDE = 2
LANES, MOST = 16, 512  # _lrn_pool.c takes channels in groups of so many, and at most so many
NOWHERE = 255  # no place in a window


@numba.njit(inline="always")
def _larger(best: Any, which: Any, other: Any, place: Any) -> Any:
    """The larger number and its place; the first of equals; of what is not a number the last."""
    wins = other > best or other != other
    return other if wins else best, place if wins else which


@numba.njit(inline="always")
def _across(row_N: Any, C: int, size: int, best_M: Any, column_M: Any) -> None:
    """Of a row of pixels the largest number in each window's part of it, and its column there."""
    for m in range(0, best_M.size, C):
        at = STRIDE * m
        best, column = best_M[m : m + C], column_M[m : m + C]
        one, two, three = row_N[at:], row_N[at + C :], row_N[at + (size - 1) * C :]
        for c in range(C):
            value, which = _larger(widened(one[c]), np.int32(0), widened(two[c]), np.int32(1))
            if size == 3:
                value, which = _larger(value, which, widened(three[c]), np.int32(2))
            best[c], column[c] = value, which


@numba.njit(error_model="numpy", cache=True, nogil=True)
def _forward_one(x_HN: Any, y_hM: Any, which_hM: Any, size: int, c: Constants) -> None:
    wide_vectors()
    N, M = x_HN.shape[1], y_hM.shape[1]
    arrays, tile = tile_arrays(c), tile_size(c.C)
    row = np.empty(N, y_hM.dtype)
    best, column = np.full((size, M), c.k), np.empty((size, M), np.int32)  # of row h at h % size
    for i in range(y_hM.shape[0]):
        top = STRIDE * i
        for h in range(top + size - STRIDE if i else 0, top + size):  # the windows above had the others
            for first in range(0, N, tile):
                part = slice(first, first + tile)
                normalise_tile(x_HN[h][part], row[part], arrays, c)
            _across(row, c.C, size, best[h % size], column[h % size])
        first, second, third = top % size, (top + 1) % size, (top + size - 1) % size
        best1, best2, best3 = best[first], best[second], best[third]
        column1, column2, column3 = column[first], column[second], column[third]
        y, which = y_hM[i], which_hM[i]
        for m in range(M):
            value, place = _larger(best1[m], column1[m], best2[m], np.int32(size) + column2[m])
            if size == 3:
                value, place = _larger(value, place, best3[m], np.int32(2 * size) + column3[m])
            y[m], which[m] = narrowed(value, y[m]), place


@numba.njit(inline="always")
def _sum(total: Any, dy: Any, which: Any, place: Any) -> Any:
    """Add what an output hands down to the number at `place` of its window."""
    return total + (widened(dy) if which == place else ZERO)


@numba.njit(inline="always")
def _hand_down(above: Any, below: Any, place: int, both: bool, C: int, size: int, dx_N: Any) -> None:
    """The gradients of a row of pixels from the windows that it is in: one row of these, in which it begins
    at `place`, or two, in whose lower one it is the first. Each sum begins with the window first in order.

    above, below: outputs' gradients and places, with one more output, of nowhere, on both sides. Only windows
    of 3 are in `both`: their lower row holds these pixels at places 0, 1 and 2.
    """
    dy_above, which_above = above
    dy_below, which_below = below
    left, middle, right = np.uint8(place), np.uint8(place + 1), np.uint8(place + size - 1)
    for m in range(0, dx_N.size // STRIDE + 1, C):  # the output whose left column these pixels are
        dx = dx_N[STRIDE * m : STRIDE * m + C]
        a, b, c, d = dy_above[m:], dy_above[m + C :], dy_below[m:], dy_below[m + C :]
        in_a, in_b, in_c, in_d = which_above[m:], which_above[m + C :], which_below[m:], which_below[m + C :]
        for i in range(dx.size):
            total = _sum(ZERO, b[i], in_b[i], left)
            if size == 3:
                total = _sum(_sum(ZERO, a[i], in_a[i], right), b[i], in_b[i], left)
            if both:
                total = _sum(_sum(total, c[i], in_c[i], np.uint8(2)), d[i], in_d[i], np.uint8(0))
            dx[i] = total
        dx = dx_N[STRIDE * m + C : STRIDE * m + 2 * C]
        for i in range(dx.size):
            total = _sum(ZERO, b[i], in_b[i], middle)
            if both:
                total = _sum(total, d[i], in_d[i], np.uint8(1))
            dx[i] = total


@numba.njit(error_model="numpy", cache=True, nogil=True)
def _backward_one(x_HN: Any, dy_hM: Any, which_hM: Any, dx_HN: Any, size: int, c: Constants) -> None:
    wide_vectors()
    H, N = x_HN.shape
    h_out, M = dy_hM.shape
    arrays, tile = tile_arrays(c), tile_size(c.C)
    row = np.full(N, c.k)  # of k's type: what the windows hand down is not rounded
    dy = np.zeros((3, M + 2 * c.C), dy_hM.dtype)  # row i of the outputs at i % 2; the last is nowhere
    which = np.full((3, M + 2 * c.C), NOWHERE, np.uint8)
    for h in range(H):
        i = h // STRIDE
        if h % STRIDE == 0 and i < h_out:
            dy[i % 2, c.C : c.C + M] = dy_hM[i]
            which[i % 2, c.C : c.C + M] = which_hM[i]
        last = i % 2 if i < h_out else 2
        if size == 3 and h % STRIDE == 0:
            before = (i - 1) % 2 if i > 0 else 2
            _hand_down((dy[before], which[before]), (dy[last], which[last]), 2 * size, True, c.C, size, row)
        else:
            only = dy[last], which[last]
            _hand_down(only, only, h % STRIDE * size, False, c.C, size, row)
        for first in range(0, N, tile):
            part = slice(first, first + tile)
            gradient_tile(x_HN[h][part], row[part], dx_HN[h][part], arrays, c)


@numba.njit(parallel=True, cache=True, nogil=True)
def _forward(x_BHN: Any, y_BhM: Any, which_BhM: Any, size: int, c: Constants) -> None:
    for b in numba.prange(len(x_BHN)):
        _forward_one(x_BHN[b], y_BhM[b], which_BhM[b], size, c)


@numba.njit(parallel=True, cache=True, nogil=True)
def _backward(x_BHN: Any, dy_BhM: Any, which_BhM: Any, dx_BHN: Any, size: int, c: Constants) -> None:
    for b in numba.prange(len(x_BHN)):
        _backward_one(x_BHN[b], dy_BhM[b], which_BhM[b], dx_BHN[b], size, c)


def _places(
    x: Tensor, size: int, relu: bool, n: int, k: float, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    B, C, H, W = x.shape
    if size not in (2, 3):  # the loops know no other, and check no index
        raise ValueError(f"windows of 2 or 3 pixels are pooled, not of {size}")
    h, w = ((side - size) // STRIDE + 1 for side in (H, W))
    y, which = (
        torch.empty(B, C, h, w, dtype=dtype, device=x.device, memory_format=torch.channels_last)
        for dtype in (x.dtype, torch.uint8)
    )
    return y, which


@opaque(_places)
def _normalise(
    x: Tensor, size: int, relu: bool, n: int, k: float, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    y, which = _places(x, size, relu, n, k, alpha, beta)
    if _by_hand(x, size, relu, n, beta):
        lines = _lines(x), _lines(y), _lines(which)
        _lrn_pool.forward(*lines, _shape(x), k, alpha, min(len(x), torch.get_num_threads()))
    else:
        c = constants(x, relu, n, k, alpha, beta)
        _forward(_lines(x), _lines(y), _lines(which), size, c)
    return y, which


@opaque(like)
def _gradient(
    x: Tensor, dy: Tensor, which: Tensor, size: int, relu: bool, n: int, k: float, alpha: float, beta: float
) -> Tensor:
    dx = torch.empty_like(x)
    if _by_hand(x, size, relu, n, beta):
        lines = _lines(x), _lines(dy), _lines(which), _lines(dx)
        _lrn_pool.backward(*lines, _shape(x), k, alpha, min(len(x), torch.get_num_threads()))
    else:
        c = constants(x, relu, n, k, alpha, beta)
        _backward(_lines(x), _lines(dy), _lines(which), _lines(dx), size, c)
    return dx


def _shape(x_BCHW: Tensor) -> tuple[int, int, int, int]:
    B, C, H, W = x_BCHW.shape
    return B, H, W, C


def _by_hand(x_BCHW: Tensor, size: int, relu: bool, n: int, beta: float) -> bool:
    """Whether `_lrn_pool.c` knows such a layer."""
    known = relu and (size, n, beta) == (3, 5, 0.75)
    whole = len(x_BCHW) > 0 and x_BCHW.shape[1] % LANES == 0 and x_BCHW.shape[1] <= MOST
    return bool(_lrn_pool) and known and whole and x_BCHW.dtype == torch.bfloat16


class _CompiledLRNPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, size: int, relu: bool, n: int, k: float, alpha: float, beta: float
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.constants = (size, relu, n, k, alpha, beta)
        y, which = _normalise(x, *ctx.constants)
        ctx.save_for_backward(x, which)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, which = ctx.saved_tensors
        dy = grads[0].contiguous(memory_format=torch.channels_last)
        return _gradient(x, dy, which, *ctx.constants), None, None, None, None, None, None


def _lines(x_BCHW: Tensor) -> Any:
    """The tensor's memory as [B, H, W * C]: lines of pixels, the channels of one behind each other."""
    B, C, H, W = x_BCHW.shape
    return as_array(x_BCHW.permute(0, 2, 3, 1).view(B, H, W * C))  # in any other format an error, not a copy


def lrn_pool(
    x_BCHW: Tensor,
    size: int,
    n: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    relu: bool = False,
) -> Tensor:
    """`lrn.local_response_norm`, then the largest of each size x size window, 2 apart (section 3.4).

    x_BCHW: float32, float64 or bfloat16 on the CPU, at least size x size pixels, best in channels_last.
    size is 2 or 3. Returns [B, C, (H - size) // 2 + 1, (W - size) // 2 + 1] of the same dtype.
    """
    return _CompiledLRNPool.apply(x_BCHW, size, relu, n, k, alpha, beta)
