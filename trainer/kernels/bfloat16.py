"""float32 and bfloat16 in compiled loops. These know no bfloat16: its bits are a float32's upper half.

An array of integers holds bfloat16 here; any other is what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray
from torch import Tensor

PIECE = 1024  # numbers that stay in the L1 cache while they are worked on


def widened(number: Any) -> Any:
    """A number of an array to compute with, bfloat16 as float32; in Python and in compiled loops."""
    return _of_bits(number) if isinstance(number, np.integer) else number


def narrowed(number: Any, like: Any) -> Any:
    """A number as an array of numbers like `like` holds it, bfloat16 rounded to nearest, ties to even; in
    Python and in compiled loops."""
    return _upper_half(number, like) if isinstance(like, np.integer) else number


@overload(widened, inline="always", strict=False)
def _widened(number: Any) -> Callable[..., Any]:
    return _of_bits if isinstance(number, types.Integer) else lambda number: number


@overload(narrowed, inline="always", strict=False)
def _narrowed(number: Any, like: Any) -> Callable[..., Any]:
    return _upper_half if isinstance(like, types.Integer) else lambda number, like: number


def _of_bits(number: Any) -> Any:
    return np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)


def _upper_half(number: Any, like: Any) -> Any:
    bits = np.float32(number).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """In a compiled loop: a * b + c, rounded once, whatever the processor."""
    return a(a, a, a), lambda context, builder, signature, arguments: builder.fma(*arguments)


fma: Any = intrinsic(_fma)


def _wide_vectors(typing: Any) -> Any:
    """In a compiled loop: have it use the processor's widest vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # LLVM's name for it, which llvmlite's own set of attributes does not know, and so would refuse.
        if isinstance(attributes := builder.function.attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), generate


wide_vectors: Any = intrinsic(_wide_vectors)


@numba.njit(cache=True, nogil=True)
def add_rows(rows_RN: Any, out_N: Any) -> None:
    """Add R rows to `out_N`, in float32, and round once."""
    for begin in range(0, out_N.size, PIECE):
        out = out_N[begin : begin + PIECE]
        total = np.empty(out.size, np.float32)
        for i in range(out.size):
            total[i] = widened(out[i])
        for r in range(rows_RN.shape[0]):
            row = rows_RN[r, begin : begin + PIECE]
            for i in range(out.size):
                total[i] += widened(row[i])
        for i in range(out.size):
            out[i] = narrowed(total[i], out[i])


def as_array(x: Tensor) -> NDArray[Any]:
    """A tensor's memory as an array; bfloat16 as the uint16 that hold its bits."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
