"""ReLU, local response normalisation and max-pooling in one pass each way, for the CPU.

What conv1 and conv2 say are the largest arrays of the network, and memory is what a step waits for. Here a
row of pixels is normalised when a window first reaches it, and pooled while it is in the cache. Kept for the
backward pass are the input and, a byte each, which number of its window every output is. The bits are those
of the operations one after the other, both ways.

B batch, H and W of the input, h and w of the output, C channels.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from trainer.lrn import local_response_norm
from trainer.lrn_tiles import ZERO, gradient_tile, normalise_tile, spread_rows, tile_arrays, tile_shape
from trainer.rows import as_array, load_row, round_row, store_row

STRIDE = 2


@numba.njit(inline="always")
def _larger(best: Any, which: Any, other: Any, place: int) -> Any:
    """The larger number and its place; the first of equals; of what is not a number the last."""
    wins = other > best or other != other
    return other if wins else best, np.int32(place) if wins else which


@numba.njit(inline="always")
def _largest_of_4(v0: Any, v1: Any, v2: Any, v3: Any, best: Any, which: Any) -> None:
    for c in range(best.size):
        b, i = v0[c], np.int32(0)
        b, i = _larger(b, i, v1[c], 1)
        b, i = _larger(b, i, v2[c], 2)
        b, i = _larger(b, i, v3[c], 3)
        best[c], which[c] = b, i


@numba.njit(inline="always")
def _largest_of_9(
    v0: Any, v1: Any, v2: Any, v3: Any, v4: Any, v5: Any, v6: Any, v7: Any, v8: Any, best: Any, which: Any
) -> None:
    for c in range(best.size):  # written out: so they stay in registers
        b, i = v0[c], np.int32(0)
        b, i = _larger(b, i, v1[c], 1)
        b, i = _larger(b, i, v2[c], 2)
        b, i = _larger(b, i, v3[c], 3)
        b, i = _larger(b, i, v4[c], 4)
        b, i = _larger(b, i, v5[c], 5)
        b, i = _larger(b, i, v6[c], 6)
        b, i = _larger(b, i, v7[c], 7)
        b, i = _larger(b, i, v8[c], 8)
        best[c], which[c] = b, i


@numba.njit(error_model="numpy", cache=True, nogil=True)
def _forward_one(
    x_HWC: Any,
    y_hwC: Any,
    which_hwC: Any,
    scratch: Any,
    size: int,
    relu: bool,
    n: int,
    k: Any,
    alpha: Any,
    beta: Any,
) -> None:
    _, W, C = x_HWC.shape
    pixels, width = tile_shape(C, n)
    a, _, spread, d, r = tile_arrays(C, n, scratch)
    a_bits, r_bits = a.view(np.uint32), r.view(np.uint32)
    rows = np.empty((size, W, C), scratch.dtype)  # row h of the picture is row h % size of these
    best = np.empty(C, scratch.dtype)
    best_bits = best.view(np.uint32)
    which = np.empty(C, np.int32)
    for i in range(y_hwC.shape[0]):
        top = STRIDE * i
        for h in range(top + size - STRIDE if i else 0, top + size):  # the windows above had the others
            for first in range(0, W, pixels):
                last = min(W, first + pixels)
                spread_rows(x_HWC[h, first:last], a_bits, a, width, n // 2)
                normalise_tile(a, spread, d, r, relu, n, k, alpha, beta)
                round_row(r_bits, r, y_hwC[0, 0])
                for w in range(first, last):
                    normalised = rows[h % size, w]
                    at = (w - first) * width
                    for c in range(C):
                        normalised[c] = r[at + c]
        for j in range(y_hwC.shape[1]):
            w = STRIDE * j
            if size == 2:
                two, three = rows[top % 2], rows[(top + 1) % 2]
                _largest_of_4(two[w], two[w + 1], three[w], three[w + 1], best, which)
            else:
                one, two, three = rows[top % 3], rows[(top + 1) % 3], rows[(top + 2) % 3]
                _largest_of_9(
                    one[w],
                    one[w + 1],
                    one[w + 2],
                    two[w],
                    two[w + 1],
                    two[w + 2],
                    three[w],
                    three[w + 1],
                    three[w + 2],
                    best,
                    which,
                )
            store_row(best_bits, best, y_hwC[i, j])
            kept = which_hwC[i, j]
            for c in range(C):
                kept[c] = which[c]


@numba.njit(error_model="numpy", cache=True, nogil=True)
def _backward_one(
    x_HWC: Any,
    dy_hwC: Any,
    which_hwC: Any,
    dx_HWC: Any,
    scratch: Any,
    size: int,
    relu: bool,
    n: int,
    k: Any,
    alpha: Any,
    beta: Any,
) -> None:
    H, W, C = x_HWC.shape
    h_out, w_out = dy_hwC.shape[0], dy_hwC.shape[1]
    pixels, width = tile_shape(C, n)
    a, g, spread, d, r = tile_arrays(C, n, scratch)
    a_bits, r_bits = a.view(np.uint32), r.view(np.uint32)
    total = np.empty(C, scratch.dtype)
    one = np.empty(C, scratch.dtype)
    total_bits, one_bits = total.view(np.uint32), one.view(np.uint32)
    for h in range(H):
        for first in range(0, W, pixels):
            last = min(W, first + pixels)
            for w in range(first, last):
                for c in range(C):
                    total[c] = 0
                # the windows that hold this pixel, in the order in which torch adds what they hand down
                for i in range(max(0, h - size + STRIDE) // STRIDE, min(h // STRIDE, h_out - 1) + 1):
                    for j in range(max(0, w - size + STRIDE) // STRIDE, min(w // STRIDE, w_out - 1) + 1):
                        place = (h - STRIDE * i) * size + w - STRIDE * j
                        which = which_hwC[i, j]
                        load_row(dy_hwC[i, j], one_bits, one)
                        for c in range(C):
                            total[c] += one[c] if which[c] == place else ZERO
                        round_row(total_bits, total, dx_HWC[h, w])
                at = (w - first) * width + n // 2
                for c in range(C):
                    g[at + c] = total[c]
            spread_rows(x_HWC[h, first:last], a_bits, a, width, n // 2)
            gradient_tile(a, g, spread, d, r, width, relu, n, k, alpha, beta)
            for w in range(first, last):
                at = (w - first) * width
                store_row(r_bits[at : at + C], r[at : at + C], dx_HWC[h, w])


@numba.njit(parallel=True, cache=True, nogil=True)
def _forward(
    x_BHWC: Any,
    y_BhwC: Any,
    which_BhwC: Any,
    scratch: Any,
    size: int,
    relu: bool,
    n: int,
    k: Any,
    alpha: Any,
    beta: Any,
) -> None:
    for b in numba.prange(len(x_BHWC)):
        _forward_one(x_BHWC[b], y_BhwC[b], which_BhwC[b], scratch, size, relu, n, k, alpha, beta)


@numba.njit(parallel=True, cache=True, nogil=True)
def _backward(
    x_BHWC: Any,
    dy_BhwC: Any,
    which_BhwC: Any,
    dx_BHWC: Any,
    scratch: Any,
    size: int,
    relu: bool,
    n: int,
    k: Any,
    alpha: Any,
    beta: Any,
) -> None:
    for b in numba.prange(len(x_BHWC)):
        _backward_one(
            x_BHWC[b], dy_BhwC[b], which_BhwC[b], dx_BHWC[b], scratch, size, relu, n, k, alpha, beta
        )


class _CompiledLRNPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, size: int, relu: bool, n: int, k: float, alpha: float, beta: float
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        B, C, H, W = x.shape
        h, w = ((side - size) // STRIDE + 1 for side in (H, W))
        y, which = (
            torch.empty(B, C, h, w, dtype=dtype, memory_format=torch.channels_last)
            for dtype in (x.dtype, torch.uint8)
        )
        scratch = np.empty(0, np.float64 if x.dtype == torch.float64 else np.float32)
        ctx.constants = (scratch, size, relu, n, *(scratch.dtype.type(v) for v in (k, alpha, beta)))
        _forward(*map(_pixels, (x, y, which)), *ctx.constants)
        ctx.save_for_backward(x, which)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, which = ctx.saved_tensors
        dy = grads[0].contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        _backward(*map(_pixels, (x, dy, which, dx)), *ctx.constants)
        return dx, None, None, None, None, None, None


def _pixels(x_BCHW: Tensor) -> Any:
    return as_array(x_BCHW.permute(0, 2, 3, 1))


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


def compile_loops(dtype: torch.dtype) -> None:
    """Have the compiled loops of both modules on the disk, for every process that comes later."""
    for form in (local_response_norm, functools.partial(lrn_pool, size=3)):
        said = form(torch.ones(1, 1, 3, 3, dtype=dtype, requires_grad=True))
        said.backward(torch.ones_like(said))
