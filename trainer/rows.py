"""float32 and bfloat16 in compiled loops. These know no bfloat16: its bits are a float32's upper half.

`bits` and `values` are one piece of memory, once as uint32 and once as float32.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECE = 1024  # numbers that stay in the L1 cache while they are converted


@numba.njit(inline="always")
def load_row(row: Any, bits: Any, values: Any) -> None:
    """Read one row; a row of 2-byte items holds bfloat16."""
    if row.itemsize == 2:
        for c in range(row.size):
            bits[c] = np.uint32(row[c]) << np.uint32(16)
    else:
        for c in range(row.size):
            values[c] = row[c]


@numba.njit(inline="always")
def store_row(bits: Any, values: Any, row: Any) -> None:
    """Write one row; bfloat16 is rounded to nearest, ties to even."""
    if row.itemsize == 2:
        for c in range(row.size):
            u = bits[c]
            row[c] = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    else:
        for c in range(row.size):
            row[c] = values[c]


@numba.njit(inline="always")
def round_row(bits: Any, values: Any, like: Any) -> None:
    """Leave in `values` what a row like `like` could hold of them."""
    if like.itemsize == 2:
        for c in range(values.size):
            u = bits[c]
            rounded = u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))
            bits[c] = rounded & np.uint32(0xFFFF0000)


@numba.njit(cache=True, nogil=True)
def add_rows(rows_RN: Any, out_N: Any) -> None:
    """Add R rows to `out_N`, in float32, and round once."""
    for begin in range(0, out_N.size, PIECE):
        end = min(begin + PIECE, out_N.size)
        total, values = np.empty(end - begin, np.float32), np.empty(end - begin, np.float32)
        total_bits, bits = total.view(np.uint32), values.view(np.uint32)
        load_row(out_N[begin:end], total_bits, total)
        for r in range(rows_RN.shape[0]):
            load_row(rows_RN[r, begin:end], bits, values)
            for i in range(end - begin):
                total[i] += values[i]
        store_row(total_bits, total, out_N[begin:end])


def as_array(x: Tensor) -> NDArray[Any]:
    """A tensor's memory as an array; bfloat16 as the uint16 that hold its bits."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
