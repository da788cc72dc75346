"""Local response normalisation of a few pixels at a time, each way: what lrn.py and lrn_pool.py compile in.

A tile is a piece of memory that holds the channels of some pixels behind each other, n - 1 zeros between two
of them: so a window's sum is the same sum everywhere, and every loop is one long row of numbers.

P pixels, C channels, n numbers in a window.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from trainer.rows import load_row

TILE = 1024  # numbers that are worked on at a time: five arrays of so many stay in the L1 cache

# What a quarter of d's bits is taken from; found by trying: |1 - d y^4| stays below 0.124 for all d.
ROOT = np.uint32(0x4F581800)

# Typed, or a compiled loop would go on in float64.
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)


@numba.njit(inline="always")
def _inverse_power(d: Any, beta: Any, out: Any) -> None:
    """out = d ** -beta, for d > 0. At 0.75, the paper's power, by multiplications alone: the processor takes
    several times as long for roots, and longer still for a power."""
    if beta == 0.75 and d.itemsize == 4:
        d_bits, out_bits = d.view(np.uint32), out.view(np.uint32)
        for i in range(d.size):  # a float's bits are nearly its logarithm: d ** -0.25 to 3 %
            out_bits[i] = ROOT - (d_bits[i] >> np.uint32(2))
        for i in range(d.size):
            # h = 1 - d y^4 is what y lacks: d ** -0.25 = y (1 - h) ** -0.25, which is
            # y (1 + h / 4 + 5 h^2 / 32 + ...)
            y = out[i]
            y2 = y * y
            h = ONE - d[i] * (y2 * y2)
            y += y * h * (np.float32(1 / 4) + h * np.float32(5 / 32))
            # now |h| < 1e-3, and d ** -0.75 = y^3 (1 + 3 h / 4 + 21 h^2 / 32 + ...)
            y2 = y * y
            h = ONE - d[i] * (y2 * y2)
            y *= y2
            out[i] = y + y * h * (np.float32(3 / 4) + h * np.float32(21 / 32))
    elif beta == 0.75:
        for i in range(d.size):
            root = np.sqrt(d[i])
            out[i] = ONE / (root * np.sqrt(root))
    else:
        for i in range(d.size):
            out[i] = d[i] ** -beta


@numba.njit(inline="always")
def _window_sum(spread: Any, n: int, out: Any) -> None:
    """out_i = sum of the n entries of `spread` that begin at i."""
    if n == 5:
        for i in range(out.size):
            out[i] = spread[i] + spread[i + 1] + spread[i + 2] + spread[i + 3] + spread[i + 4]
    else:
        for i in range(out.size):
            out[i] = 0
            for j in range(n):
                out[i] += spread[i + j]


@numba.njit(inline="always")
def tile_shape(channels: int, n: int) -> Any:
    """Pixels of a tile, and numbers that each takes: n - 1 zeros lie between the channels of two pixels."""
    width = channels + n - 1
    return max(1, TILE // width), width


@numba.njit(inline="always")
def tile_arrays(channels: int, n: int, like: Any) -> Any:
    """For a tile: a and g, zeros; `spread`, as long; d and r, n - 1 shorter."""
    pixels, width = tile_shape(channels, n)
    a = np.zeros(pixels * width, like.dtype)
    g = np.zeros(a.size, like.dtype)
    spread = np.empty(a.size, like.dtype)
    d = np.empty(a.size - n + 1, like.dtype)
    r = np.empty(d.size, like.dtype)
    return a, g, spread, d, r


@numba.njit(inline="always")
def spread_rows(x_PC: Any, bits: Any, values: Any, width: int, half: int) -> None:
    """Read a few pixels into a tile."""
    C = x_PC.shape[1]
    for p in range(x_PC.shape[0]):
        first = p * width + half
        load_row(x_PC[p], bits[first : first + C], values[first : first + C])


@numba.njit(inline="always")
def _scales(a: Any, spread: Any, d: Any, r: Any, relu: bool, n: int, k: Any, alpha: Any, beta: Any) -> None:
    """d = k + alpha * sum of a^2 over the window, and r = d^-beta, of all pixels of a tile."""
    for i in range(a.size):
        a[i] = ZERO if relu and a[i] < ZERO else a[i]  # what is not a number stays that
        spread[i] = a[i] * a[i]
    _window_sum(spread, n, d)
    for i in range(d.size):
        d[i] = k + alpha * d[i]
    _inverse_power(d, beta, r)


@numba.njit(inline="always")
def normalise_tile(
    a: Any, spread: Any, d: Any, r: Any, relu: bool, n: int, k: Any, alpha: Any, beta: Any
) -> None:
    """Of each a_i its normalised value into r_(i - n // 2). d and r are n - 1 shorter than a and `spread`."""
    _scales(a, spread, d, r, relu, n, k, alpha, beta)
    centre = a[n // 2 :]
    for i in range(r.size):
        r[i] *= centre[i]


@numba.njit(inline="always")
def gradient_tile(
    a: Any,
    g: Any,
    spread: Any,
    d: Any,
    r: Any,
    width: int,
    relu: bool,
    n: int,
    k: Any,
    alpha: Any,
    beta: Any,
) -> None:
    """From g_i, the gradient of what `normalise_tile` says of a_i, the gradient of a_i into r_(i - n // 2):
    dx_i = dy_i d_i^-beta - 2 alpha beta x_i * sum over the window of dy_j x_j d_j^(-beta - 1)."""
    half, factor = n // 2, TWO * alpha * beta
    _scales(a, spread, d, r, relu, n, k, alpha, beta)
    x, dy, product = a[half:], g[half:], spread[half:]
    for i in range(r.size):
        product[i] = dy[i] * x[i] * r[i] / d[i]
    for first in range(0, spread.size, width):
        for j in range(half):  # zeros between two pixels stay zeros, whatever becomes of their neighbours
            spread[first + j] = 0
            spread[first + width - 1 - j] = 0
    _window_sum(spread, n, d)
    for i in range(r.size):
        dx = dy[i] * r[i] - factor * x[i] * d[i]
        r[i] = ZERO if relu and x[i] <= ZERO else dx
