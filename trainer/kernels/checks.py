"""Checks of arguments, once a call: the kernels check no index and would leave their arrays.

Each takes one or two microseconds, and raises ValueError with the shapes that do not belong together.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KINDS = {"i": "integers", "b": "booleans", "f": "floating-point numbers"}


def check_convolution(x_BCHW: Tensor, weight_OCkk: Tensor, bias_O: Tensor | None, pad: int) -> None:
    """Raise ValueError for arrays of no convolution; `pad`: zeros before and after a row, together."""
    x, weight = x_BCHW.shape, weight_OCkk.shape
    if not (
        len(x) == len(weight) == 4
        and x[1] == weight[1]
        and (bias_O is None or bias_O.shape == weight[:1])
        and pad >= 0
        and x[2] + pad >= weight[2] > 0
        and x[3] + pad >= weight[3] > 0
        and min(x[2:]) > 0
        and x_BCHW.is_floating_point()
        and weight_OCkk.is_floating_point()
    ):
        bias = None if bias_O is None else _of(bias_O)
        raise ValueError(f"no convolution of {_of(x_BCHW)} with {_of(weight_OCkk)}, bias {bias}, pad {pad}")


def check_lrn(x_BCHW: Tensor, window: int | None, n: int) -> None:
    """Raise ValueError for no images, and for windows that LRN and pooling do not have."""
    if x_BCHW.dim() != 4 or not x_BCHW.is_floating_point():
        raise ValueError(f"LRN takes floating-point [B, C, H, W], not {_of(x_BCHW)}")
    if not isinstance(n, int) or n < 1 or n % 2 == 0 or x_BCHW.shape[1] < 1:
        raise ValueError(f"a window of {n} of {x_BCHW.shape[1]} channels: both must be positive, and it odd")
    if window is not None and window != 2 and window != 3:
        raise ValueError(f"windows of 2 or 3 pixels are pooled, not of {window}")
    if min(x_BCHW.shape[2:]) < (window or 0):
        raise ValueError(f"windows of {window} pixels do not fit into {_of(x_BCHW)}")


def check_lrn_gradient(x_BCHW: Tensor, dy_BChw: Tensor, position: Tensor, window: int | None) -> None:
    """Raise ValueError where the output's gradient, or the maxima's positions, are of another input."""
    B, C, H, W = x_BCHW.shape
    h, w = (H, W) if window is None else ((H - window) // 2 + 1, (W - window) // 2 + 1)
    right = dy_BChw.shape == (B, C, h, w) and (window is None or position.shape == dy_BChw.shape)
    if not right or position.dtype != torch.uint8 or dy_BChw.dtype != x_BCHW.dtype:
        raise ValueError(f"{_of(dy_BChw)} with positions {_of(position)} is no gradient for {_of(x_BCHW)}")


def check_update(w_N: Tensor, v_N: Tensor, g_N: Tensor, rounded_N: Tensor | None) -> None:
    """Raise ValueError for arrays that are not flat, contiguous, floating-point and of one length."""
    for x in (w_N, v_N, g_N) if rounded_N is None else (w_N, v_N, g_N, rounded_N):
        if x.dim() != 1 or x.shape != w_N.shape or not x.is_contiguous() or not x.is_floating_point():
            raise ValueError(f"the update takes contiguous floating-point arrays of one length, not {_of(x)}")
    if v_N.dtype != w_N.dtype:
        raise ValueError(f"weights and velocities have one dtype, not {_of(w_N)} and {_of(v_N)}")


def check_sum_rows(total_N: Tensor, rows_RN: Tensor) -> None:
    """Raise ValueError for rows of another length or dtype than the total."""
    if total_N.dim() != 1 or rows_RN.dim() != 2 or rows_RN.shape[1:] != total_N.shape:
        raise ValueError(f"rows {_of(rows_RN)} cannot be added to {_of(total_N)}")
    if rows_RN.dtype != total_N.dtype or not total_N.is_floating_point():
        raise ValueError(f"rows {_of(rows_RN)} and total {_of(total_N)} must have one floating-point dtype")


def check_uniform(positions_B: Tensor, units_F: Tensor) -> None:
    """Raise ValueError for positions and units that are not flat and int64."""
    for x in (positions_B, units_F):
        if x.dim() != 1 or x.dtype != torch.int64:
            raise ValueError(f"positions and units are int64 and flat, not {_of(x)}")


def check_crop(
    images_BSS3: Tensor,
    means_2SS3: Tensor,
    top_B: NDArray[np.int64],
    left_B: NDArray[np.int64],
    sides_B2: NDArray[np.int64],
    flip_B: NDArray[np.bool_],
    shift_B3: NDArray[np.float32],
    angle_B: NDArray[np.float32],
    size: int,
    out_BHW3: Tensor | None,
) -> None:
    """Raise ValueError for arrays that do not belong together, and for crops beyond the images."""
    B, side = len(top_B), means_2SS3.shape[1]
    _check(images_BSS3, "the images are", torch.uint8, (B, side, side, 3))
    _check(means_2SS3, "the mean image and the flipped one are", torch.float32, (2, side, side, 3))
    if out_BHW3 is not None:
        _check(out_BHW3, "the output is", torch.float32, (B, size, size, 3))
    for name, array, shape, kind in (
        ("top_B", top_B, (B,), "i"),
        ("left_B", left_B, (B,), "i"),
        ("sides_B2", sides_B2, (B, 2), "i"),
        ("flip_B", flip_B, (B,), "b"),
        ("shift_B3", shift_B3, (B, 3), "f"),
        ("angle_B", angle_B, (B,), "f"),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape}, not {shape}")
        if array.dtype.kind != kind:
            raise ValueError(f"{name} is of {array.dtype}, not of {KINDS[kind]}")
    # Of a few numbers Python finds the least, and the sum, sooner than NumPy does.
    heights, widths = sides_B2.T.tolist() if B else ((), ())
    for name, first, long in (("top_B", top_B.tolist(), heights), ("left_B", left_B.tolist(), widths)):
        for begin, pixels in zip(first, long, strict=True):
            if not 0 <= begin < begin + pixels <= side:
                raise ValueError(
                    f"{name} has {begin}, and a crop of {pixels} pixels begins at 0 to {side - pixels} in an "
                    f"image of {side}x{side}"
                )
    if not math.isfinite(sum(angle_B.tolist())):
        raise ValueError("an angle is not a finite number")


def _check(x: Tensor, words: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if x.shape != shape or x.dtype != dtype or not x.is_contiguous():
        expected = f"{str(dtype).removeprefix('torch.')} {list(shape)}"
        raise ValueError(f"{words} {_of(x)}, not contiguous {expected}")


def _of(x: Tensor) -> str:
    """A tensor's dtype and shape, for a message."""
    strided = "" if x.is_contiguous() else ", not contiguous"
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}{strided}"
