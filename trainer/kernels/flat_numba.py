"""Numba loops over flat arrays: the update, and the sum of gradients from several ranks."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from preprocess.shared.cached_njit import cached_njit
from trainer.kernels.bfloat16 import as_array, from_float32, to_float32

PIECE = 1024  # elements of each array that stay in the L1 cache while they are worked on


def sgd_fits(w_N: Tensor, v_N: Tensor, g_N: Tensor, rounded_N: Tensor | None, *rates: float) -> bool:
    """Whether the loop takes such arrays."""
    return w_N.device.type == "cpu" and w_N.dtype != torch.float16 and g_N.dtype != torch.float16


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
    rounded = None if rounded_N is None else as_array(rounded_N)
    rates = [np.float32(rate) for rate in (momentum, lr_decay, lr)]
    _sgd(as_array(w_N), as_array(v_N), as_array(g_N), rounded, *rates)  # type: ignore[arg-type]


@cached_njit(parallel=True, nogil=True, fastmath={"contract"})
def _sgd(w_N: Any, v_N: Any, g_N: Any, rounded_N: Any, momentum: float, lr_decay: float, lr: float) -> None:
    for piece in numba.prange((w_N.size + PIECE - 1) // PIECE):
        part = slice(piece * PIECE, min(w_N.size, (piece + 1) * PIECE))
        w, v, g = w_N[part], v_N[part], g_N[part]
        for i in range(w.size):
            v[i] = momentum * v[i] - lr_decay * w[i] - lr * to_float32(g[i])
            w[i] += v[i]
            g[i] = 0
        if rounded_N is not None:
            rounded = rounded_N[part]
            for i in range(w.size):
                rounded[i] = from_float32(w[i], rounded[i])


def sum_rows_fits(total_N: Tensor, rows_RN: Tensor) -> bool:
    """Whether the loop takes such arrays."""
    return total_N.device.type == "cpu" and total_N.dtype == rows_RN.dtype == torch.bfloat16


def sum_rows_(total_N: Tensor, rows_RN: Tensor) -> None:
    """See `kernels.sum_rows_`; torch takes twelve times as long."""
    _sum_rows(as_array(total_N), as_array(rows_RN))


@cached_njit(nogil=True)
def _sum_rows(total_N: Any, rows_RN: Any) -> None:
    for begin in range(0, total_N.size, PIECE):
        total = total_N[begin : begin + PIECE]
        sums = np.empty(total.size, np.float32)
        for i in range(total.size):
            sums[i] = to_float32(total[i])
        for r in range(rows_RN.shape[0]):
            row = rows_RN[r, begin : begin + PIECE]
            for i in range(total.size):
                sums[i] += to_float32(row[i])
        for i in range(total.size):
            total[i] = from_float32(sums[i], total[i])
