"""ReLU, local response normalisation and max-pooling in one pass each way: Numba loops for CPUs.

The outputs of conv1 and conv2 are the largest arrays of the network, and a step waits for memory. Here a row
of pixels is normalised when the first window reaches it and pooled while it is in the cache. The bits are
those of the operations one after the other, except that bfloat16 is not rounded between the gradients of
pooling and normalisation.

B batch, C channels, H and W of the input, h and w of the output; N = W C and M = w C numbers of a row.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.shared.cached_njit import cached_njit
from trainer.kernels import lrn_numba
from trainer.kernels.bfloat16 import as_array, from_float32, to_float32, use_512_bits
from trainer.kernels.checks import check_lrn_gradient
from trainer.kernels.custom_op import custom_op
from trainer.kernels.lrn_function import STRIDE, empty_gradient, empty_outputs, lrn_function
from trainer.kernels.lrn_numba import ZERO, Constants, gradient_tile, normalise_tile, tile_arrays, tile_size

NO_POSITION = 255


def fits(x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float) -> bool:
    """Whether the loops take such a tensor."""
    return x_BCHW.device.type == "cpu" and x_BCHW.dtype in (torch.float32, torch.bfloat16)


@custom_op(empty_outputs)
def _forward(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    y, position = empty_outputs(x_BCHW, relu, window, n, k, alpha, beta)
    c = constants(x_BCHW, relu, n, k, alpha, beta)
    if window is None:
        lrn_numba.forward(as_rows(x_BCHW).reshape(-1), as_rows(y).reshape(-1), c)
    else:
        _pool_forward(as_rows(x_BCHW), as_rows(y), as_rows(position), window, c)
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
    check_lrn_gradient(x_BCHW, dy_BChw, position, window)
    dx = torch.empty_like(x_BCHW)
    c = constants(x_BCHW, relu, n, k, alpha, beta)
    if window is None:
        x, dy, out = (as_rows(t).reshape(-1) for t in (x_BCHW, dy_BChw, dx))
        lrn_numba.backward(x, dy, out, c)
    else:
        _pool_backward(as_rows(x_BCHW), as_rows(dy_BChw), as_rows(position), as_rows(dx), window, c)
    return dx


relu_lrn_pool = lrn_function(_forward, _backward)


def constants(x_BCHW: Tensor, relu: bool, n: int, k: float, alpha: float, beta: float) -> Constants:
    """For the loops, which compute in float32."""
    return Constants(x_BCHW.shape[1], relu, n, np.float32(k), np.float32(alpha), np.float32(beta))


def as_rows(x_BCHW: Tensor) -> NDArray[Any]:
    """View a tensor in channels_last as [B, H, W * C], rows of pixels. Raises RuntimeError else."""
    B, C, H, W = x_BCHW.shape
    return as_array(x_BCHW.permute(0, 2, 3, 1).view(B, H, W * C))


@numba.njit(inline="always")
def _larger(best: Any, position: Any, other: Any, other_position: Any) -> Any:
    """The larger number and its position; of equal numbers the first one, of several NaN the last."""
    wins = other > best or other != other
    return other if wins else best, other_position if wins else position


@numba.njit(inline="always")
def _row_maxima(row_N: Any, C: int, window: int, best_M: Any, column_M: Any) -> None:
    """For each window the maximum of its part of a row of pixels, and its column there."""
    for m in range(0, best_M.size, C):
        at = STRIDE * m
        best, column = best_M[m : m + C], column_M[m : m + C]
        one, two, three = row_N[at:], row_N[at + C :], row_N[at + (window - 1) * C :]
        for c in range(C):
            value, where = _larger(to_float32(one[c]), np.int32(0), to_float32(two[c]), np.int32(1))
            if window == 3:
                value, where = _larger(value, where, to_float32(three[c]), np.int32(2))
            best[c], column[c] = value, where


@cached_njit(error_model="numpy", nogil=True)
def _pool_forward_one(x_HN: Any, y_hM: Any, position_hM: Any, window: int, c: Constants) -> None:
    use_512_bits()
    N, M = x_HN.shape[1], y_hM.shape[1]
    arrays, tile = tile_arrays(c), tile_size(c.C)
    row = np.empty(N, y_hM.dtype)
    best, column = np.full((window, M), c.k), np.empty((window, M), np.int32)  # of row h at h % window
    for i in range(y_hM.shape[0]):
        top = STRIDE * i
        for h in range(top + window - STRIDE if i else 0, top + window):  # those before belong to i - 1 too
            for first in range(0, N, tile):
                part = slice(first, first + tile)
                normalise_tile(x_HN[h][part], row[part], arrays, c)
            _row_maxima(row, c.C, window, best[h % window], column[h % window])
        first, second, third = top % window, (top + 1) % window, (top + window - 1) % window
        best1, best2, best3 = best[first], best[second], best[third]
        column1, column2, column3 = column[first], column[second], column[third]
        y, position = y_hM[i], position_hM[i]
        for m in range(M):
            value, where = _larger(best1[m], column1[m], best2[m], np.int32(window) + column2[m])
            if window == 3:
                value, where = _larger(value, where, best3[m], np.int32(2 * window) + column3[m])
            y[m], position[m] = from_float32(value, y[m]), where


@numba.njit(inline="always")
def _add_if(total: Any, dy: Any, position: Any, expected: Any) -> Any:
    """Add an output's gradient if its maximum was at the expected position of its window."""
    return total + (to_float32(dy) if position == expected else ZERO)


@numba.njit(inline="always")
def _unpool(above: Any, below: Any, first: int, both: bool, C: int, window: int, dx_N: Any) -> None:
    """The gradient of one row of normalised pixels, from the outputs whose windows hold it.

    above, below: (gradients, positions) of a row of outputs, with one more output at either end whose
    position is NO_POSITION. `first` is the row's first position in the windows of `above`. With `both`, for
    windows of 3 alone, the row is also the first one of the windows of `below`, positions 0, 1 and 2;
    without, both are the same row of outputs. Each sum begins with the window that is first in order.
    """
    dy_above, at_above = above
    dy_below, at_below = below
    left, middle, right = np.uint8(first), np.uint8(first + 1), np.uint8(first + window - 1)
    for m in range(0, dx_N.size // STRIDE + 1, C):  # the output whose left column these pixels are
        dx = dx_N[STRIDE * m : STRIDE * m + C]
        a, b, c, d = dy_above[m:], dy_above[m + C :], dy_below[m:], dy_below[m + C :]
        at_a, at_b, at_c, at_d = at_above[m:], at_above[m + C :], at_below[m:], at_below[m + C :]
        for i in range(dx.size):
            total = _add_if(ZERO, b[i], at_b[i], left)
            if window == 3:
                total = _add_if(_add_if(ZERO, a[i], at_a[i], right), b[i], at_b[i], left)
            if both:
                total = _add_if(_add_if(total, c[i], at_c[i], np.uint8(2)), d[i], at_d[i], np.uint8(0))
            dx[i] = total
        dx = dx_N[STRIDE * m + C : STRIDE * m + 2 * C]
        for i in range(dx.size):
            total = _add_if(ZERO, b[i], at_b[i], middle)
            if both:
                total = _add_if(total, d[i], at_d[i], np.uint8(1))
            dx[i] = total


@cached_njit(error_model="numpy", nogil=True)
def _pool_backward_one(
    x_HN: Any, dy_hM: Any, position_hM: Any, dx_HN: Any, window: int, c: Constants
) -> None:
    use_512_bits()
    H, N = x_HN.shape
    h_out, M = dy_hM.shape
    arrays, tile = tile_arrays(c), tile_size(c.C)
    row = np.full(N, c.k)  # of k's type: gradients are not rounded between pooling and normalisation
    dy = np.zeros((3, M + 2 * c.C), dy_hM.dtype)  # row i of the outputs at i % 2; at 2 a row of no outputs
    position = np.full((3, M + 2 * c.C), NO_POSITION, np.uint8)
    for h in range(H):
        i = h // STRIDE
        if h % STRIDE == 0 and i < h_out:
            dy[i % 2, c.C : c.C + M] = dy_hM[i]
            position[i % 2, c.C : c.C + M] = position_hM[i]
        last = i % 2 if i < h_out else 2
        below = dy[last], position[last]
        if window == 3 and h % STRIDE == 0:
            before = (i - 1) % 2 if i > 0 else 2
            above = dy[before], position[before]
            _unpool(above, below, 2 * window, True, c.C, window, row)
        else:
            _unpool(below, below, h % STRIDE * window, False, c.C, window, row)
        for first in range(0, N, tile):
            part = slice(first, first + tile)
            gradient_tile(x_HN[h][part], row[part], dx_HN[h][part], arrays, c)


@cached_njit(parallel=True, nogil=True)
def _pool_forward(x_BHN: Any, y_BhM: Any, position_BhM: Any, window: int, c: Constants) -> None:
    for b in numba.prange(len(x_BHN)):
        _pool_forward_one(x_BHN[b], y_BhM[b], position_BhM[b], window, c)


@cached_njit(parallel=True, nogil=True)
def _pool_backward(
    x_BHN: Any, dy_BhM: Any, position_BhM: Any, dx_BHN: Any, window: int, c: Constants
) -> None:
    for b in numba.prange(len(x_BHN)):
        _pool_backward_one(x_BHN[b], dy_BhM[b], position_BhM[b], dx_BHN[b], window, c)
