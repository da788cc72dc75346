"""Conversions between bfloat16 and float32 for Numba loops, which have no bfloat16 type.

A bfloat16 number is the upper half of a float32's bits. Here an array of integers holds bfloat16; an array of
floating-point numbers holds what its dtype says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray
from torch import Tensor


def to_float32(number: Any) -> Any:
    """Convert an array's element to the dtype of computation: bfloat16 bits to float32, others unchanged.

    Works in Python and in compiled loops.
    """
    return _from_bits(number) if isinstance(number, np.integer) else number


def from_float32(number: Any, like: Any) -> Any:
    """Convert a computed number to the element type of `like`: to bfloat16 bits, or unchanged.

    Rounds to nearest, ties to even. Works in Python and in compiled loops.
    """
    return _to_bits(number, like) if isinstance(like, np.integer) else number


@overload(to_float32, inline="always", strict=False)
def _to_float32(number: Any) -> Callable[..., Any]:
    return _from_bits if isinstance(number, types.Integer) else lambda number: number


@overload(from_float32, inline="always", strict=False)
def _from_float32(number: Any, like: Any) -> Callable[..., Any]:
    return _to_bits if isinstance(like, types.Integer) else lambda number, like: number


def _from_bits(number: Any) -> Any:
    return np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)


def _to_bits(number: Any, like: Any) -> Any:
    bits = np.float32(number).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute a * b + c in a compiled loop, rounded once, on any processor."""
    return a(a, a, a), lambda context, builder, signature, arguments: builder.fma(*arguments)


fma: Any = intrinsic(_fma)


def _use_512_bits(typing: Any) -> Any:
    """Let the compiled function that calls this use vectors of 512 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite's set of attributes refuses LLVM's name for this, which it does not know.
        if isinstance(attributes := builder.function.attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), generate


use_512_bits: Any = intrinsic(_use_512_bits)


def as_array(x: Tensor) -> NDArray[Any]:
    """View a CPU tensor's memory as an array; bfloat16 as the uint16 that hold its bits."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
