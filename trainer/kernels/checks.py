"""Checks of arguments, once a call: the kernels check no index and would leave their arrays."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.kernels.crop_numba import CROP


def check_lrn(x_BCHW: Tensor, window: int | None, n: int) -> None:
    """Raise ValueError for windows of channels or of pixels that LRN and pooling do not have."""
    if n < 1 or n % 2 == 0 or x_BCHW.shape[1] < 1:
        raise ValueError(f"a window of {n} of {x_BCHW.shape[1]} channels: both must be positive, and it odd")
    if window is not None and window != 2 and window != 3:
        raise ValueError(f"windows of 2 or 3 pixels are pooled, not of {window}")


def check_crop(
    images_BSS3: Tensor,
    means_2SS3: Tensor,
    top_B: NDArray[np.int64],
    left_B: NDArray[np.int64],
    flip_B: NDArray[np.bool_],
    shift_B3: NDArray[np.float32],
    angle_B: NDArray[np.float32],
    out_BHW3: Tensor | None,
) -> None:
    """Raise ValueError for arrays that do not belong together, and for crops beyond the images."""
    B, side = len(top_B), means_2SS3.shape[1]
    _check(images_BSS3, "the images are", torch.uint8, (B, side, side, 3))
    _check(means_2SS3, "the mean image and the flipped one are", torch.float32, (2, side, side, 3))
    if out_BHW3 is not None:
        _check(out_BHW3, "the output is", torch.float32, (B, CROP, CROP, 3))
    if not (left_B.shape == flip_B.shape == angle_B.shape == (B,) and shift_B3.shape == (B, 3)):
        for name, array, shape in (
            ("left_B", left_B, (B,)),
            ("flip_B", flip_B, (B,)),
            ("shift_B3", shift_B3, (B, 3)),
            ("angle_B", angle_B, (B,)),
        ):
            if array.shape != shape:
                raise ValueError(f"{name} has the shape {array.shape}, not {shape}")
    # Of a few numbers Python finds the least, and the sum, sooner than NumPy does.
    for name, first in (("top_B", top_B.tolist()), ("left_B", left_B.tolist())):
        if first and not 0 <= min(first) <= max(first) <= side - CROP:
            raise ValueError(
                f"{name} has {min(first)} to {max(first)}, and a crop of {CROP} pixels begins at 0 to "
                f"{side - CROP} in an image of {side}x{side}"
            )
    if not math.isfinite(sum(angle_B.tolist())):
        raise ValueError("an angle is not a finite number")


def _check(x: Tensor, words: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if x.shape != shape or x.dtype != dtype or not x.is_contiguous():
        found, expected = (str(d).removeprefix("torch.") for d in (x.dtype, dtype))
        raise ValueError(f"{words} {found} {list(x.shape)}, not contiguous {expected} {list(shape)}")
