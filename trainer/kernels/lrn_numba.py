"""Local response normalisation as Numba loops: of one tile, forward and backward, and of a whole tensor.

A tile is some whole pixels in channels_last order, one long array, so that loops vectorise over all of it.
The sums over windows of channels first ignore where a pixel ends; its first and last channels are then
computed again without the neighbouring pixel's. lrn_pool_numba.py pools what these functions normalise.

N numbers of a tile or tensor, C channels of a pixel, n channels in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import overload

from preprocess.shared.cached_njit import cached_njit
from trainer.kernels.bfloat16 import fma, from_float32, to_float32, use_512_bits

TILE = 1024  # numbers of a tile, about: its five arrays stay in the L1 cache
TASK = 256  # pixels of a tensor that one thread takes at a time

# From these bits a quarter of d's bits is subtracted, the first step of d ** -0.25. Found by trying: with
# them |1 - d y^4| stays below 0.124 for all d.
ROOT = np.uint32(0x4F581800)

# Typed, or a compiled loop would continue in float64.
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)


class Constants(NamedTuple):
    """The formula's constants; k, alpha and beta are np.float32: a Python float would be float64."""

    C: int
    relu: bool
    n: int
    k: Any
    alpha: Any
    beta: Any


@numba.njit(inline="always")
def tile_size(C: int) -> Any:
    """Numbers of a tile of whole pixels."""
    return max(1, TILE // C) * C


@numba.njit(inline="always")
def tile_arrays(c: Any) -> Any:
    """Memory for a tile, of k's type: a; `terms`, longer, since windows reach out on both sides; d; r."""
    N = tile_size(c.C)
    return np.full(N, c.k), np.full(N + c.n - 1, c.k), np.full(N, c.k), np.full(N, c.k)


def _inverse_power_075(d: Any) -> Any:
    """d ** -0.75 for d > 0, the paper's power; replaced below in compiled loops."""
    return d**-0.75


@overload(_inverse_power_075, inline="always", strict=False)
def _by_type(d: Any) -> Callable[..., Any]:
    return _by_multiplications if d == types.float32 else _by_roots


def _by_multiplications(d: Any) -> Any:
    """Two Newton-like steps from a first guess; roots and powers take several times as long."""
    # A float's bits are nearly its logarithm: this gives d ** -0.25 to 3 %.
    y = np.uint32(ROOT - (np.float32(d).view(np.uint32) >> np.uint32(2))).view(np.float32)
    # With h = 1 - d y^4, y's error: d ** -0.25 = y (1 - h) ** -0.25 = y (1 + h / 4 + 5 h^2 / 32 + ...)
    y2 = y * y
    h = fma(-d, y2 * y2, ONE)
    y = fma(y * h, fma(h, np.float32(5 / 32), np.float32(1 / 4)), y)
    # Now |h| < 1e-3, and d ** -0.75 = y^3 (1 + 3 h / 4 + 21 h^2 / 32 + ...)
    y2 = y * y
    h = fma(-d, y2 * y2, ONE)
    y *= y2
    return fma(y * h, fma(h, np.float32(21 / 32), np.float32(3 / 4)), y)


def _by_roots(d: Any) -> Any:
    root = np.sqrt(d)
    return 1 / (root * np.sqrt(root))


@numba.njit(inline="always")
def _window_sums(terms: Any, C: int, n: int, out_N: Any) -> None:
    """out_i = sum of the n terms around the i-th number that belong to its pixel.

    The i-th number's own term is at i + n // 2.
    """
    if n == 5 and C >= 4:
        for i in range(out_N.size):
            out_N[i] = terms[i] + terms[i + 1] + terms[i + 2] + terms[i + 3] + terms[i + 4]
        for first in range(0, out_N.size, C):
            begin, end, out = terms[first + 2 :], terms[first + C - 2 :], out_N[first : first + C]
            three = begin[0] + begin[1] + begin[2]
            out[0], out[1] = three, three + begin[3]
            out[C - 2], out[C - 1] = end[0] + end[1] + end[2] + end[3], end[1] + end[2] + end[3]
    else:
        for i in range(out_N.size):
            c = i % C
            out_N[i] = 0
            for j in range(max(0, n // 2 - c), min(n, C - c + n // 2)):
                out_N[i] += terms[i + j]


@numba.njit(inline="always")
def _scales(x_N: Any, a: Any, terms: Any, d: Any, r: Any, c: Any) -> None:
    """a = x or its ReLU, d = k + alpha * sum of a^2 over the window, r = d^-beta."""
    squares = terms[c.n // 2 :]
    for i in range(x_N.size):
        x = to_float32(x_N[i])
        a[i] = ZERO if c.relu and x < ZERO else x  # NaN stays NaN
        squares[i] = a[i] * a[i]
    _window_sums(terms, c.C, c.n, d[: x_N.size])
    if c.beta == 0.75:
        for i in range(x_N.size):
            d[i] = fma(c.alpha, d[i], c.k)
            r[i] = _inverse_power_075(d[i])
    else:
        for i in range(x_N.size):
            d[i] = fma(c.alpha, d[i], c.k)
            r[i] = d[i] ** -c.beta


@numba.njit(inline="always")
def normalise_tile(x_N: Any, y_N: Any, arrays: Any, c: Any) -> None:
    """y_i = a_i d_i^-beta."""
    a, terms, d, r = arrays
    _scales(x_N, a, terms, d, r, c)
    for i in range(x_N.size):
        y_N[i] = from_float32(a[i] * r[i], y_N[i])


@numba.njit(inline="always")
def gradient_tile(x_N: Any, dy_N: Any, dx_N: Any, arrays: Any, c: Any) -> None:
    """dx_i = dy_i d_i^-beta - 2 alpha beta a_i * sum over the window of dy_j a_j d_j^(-beta - 1)."""
    a, terms, d, r = arrays
    _scales(x_N, a, terms, d, r, c)
    inside, factor = terms[c.n // 2 :], TWO * c.alpha * c.beta
    for i in range(x_N.size):
        inside[i] = to_float32(dy_N[i]) * a[i] * r[i] / d[i]
    _window_sums(terms, c.C, c.n, d[: x_N.size])
    for i in range(x_N.size):
        dx = fma(-factor * a[i], d[i], to_float32(dy_N[i]) * r[i])
        dx_N[i] = from_float32(ZERO if c.relu and a[i] <= ZERO else dx, dx_N[i])


@cached_njit(error_model="numpy", nogil=True)
def _forward_task(x_N: Any, y_N: Any, c: Constants) -> None:
    use_512_bits()
    arrays, size = tile_arrays(c), tile_size(c.C)
    for first in range(0, x_N.size, size):
        tile = slice(first, first + size)
        normalise_tile(x_N[tile], y_N[tile], arrays, c)


@cached_njit(error_model="numpy", nogil=True)
def _backward_task(x_N: Any, dy_N: Any, dx_N: Any, c: Constants) -> None:
    use_512_bits()
    arrays, size = tile_arrays(c), tile_size(c.C)
    for first in range(0, x_N.size, size):
        tile = slice(first, first + size)
        gradient_tile(x_N[tile], dy_N[tile], dx_N[tile], arrays, c)


@cached_njit(parallel=True, nogil=True)
def forward(x_N: Any, y_N: Any, c: Constants) -> None:
    """Normalise a tensor, or its ReLU."""
    size = TASK * c.C
    for task in numba.prange((x_N.size + size - 1) // size):
        part = slice(task * size, (task + 1) * size)
        _forward_task(x_N[part], y_N[part], c)


@cached_njit(parallel=True, nogil=True)
def backward(x_N: Any, dy_N: Any, dx_N: Any, c: Constants) -> None:
    """Compute the input's gradient."""
    size = TASK * c.C
    for task in numba.prange((x_N.size + size - 1) // size):
        part = slice(task * size, (task + 1) * size)
        _backward_task(x_N[part], dy_N[part], dx_N[part], c)
