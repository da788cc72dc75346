"""Crops as Numba loops over bytes: uint8 images in, float32 network input out.

b image of a batch, S side of a stored image; a row of an image is one array of 3 S numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from preprocess.shared.cached_njit import cached_njit

CROP = 224  # pixels along a crop: a constant, for loops of constant length
ROW = 3 * CROP  # numbers in a row of the crop


def fits(images_BSS3: Tensor, *others: Any) -> bool:
    """Whether the loops take such images, and crops of such a size; arguments as those of `crop`."""
    return images_BSS3.device.type == "cpu" and others[-2] == CROP


def crop(
    images_BSS3: Tensor,
    means_2SS3: Tensor,
    top_B: NDArray[np.int64],
    left_B: NDArray[np.int64],
    sides_B2: NDArray[np.int64],
    flip_B: NDArray[np.bool_],
    shift_B3: NDArray[np.float32],
    angle_B: NDArray[np.float32],
    scale: float,
    centered: bool,
    size: int,
    out_BHW3: Tensor | None,
) -> Tensor:
    """See `kernels.crop`."""
    B, side = images_BSS3.shape[:2]
    out = images_BSS3.new_empty((B, CROP, CROP, 3), dtype=means_2SS3.dtype) if out_BHW3 is None else out_BHW3
    images, means = images_BSS3.numpy().reshape(B, side, side * 3), means_2SS3.numpy().reshape(2, side, -1)
    where = top_B, left_B, sides_B2, flip_B, shift_B3, angle_B
    _crop(images, means, *where, np.float32(scale), centered, out.numpy().reshape(B, CROP, ROW))
    return out


@cached_njit(nogil=True, fastmath={"contract"})
def _crop(
    images: Any,
    means: Any,
    top: Any,
    left: Any,
    sides: Any,
    flip: Any,
    shift: Any,
    angle: Any,
    scale: Any,
    centered: bool,
    out: Any,
) -> None:
    side = images.shape[1]
    middle = (side - CROP) // 2
    colour = np.empty(ROW, np.float32)
    flipped = np.empty((CROP, ROW), np.uint8)
    for b in range(len(images)):
        where = top[b], left[b], sides[b, 0], sides[b, 1], flip[b]
        if angle[b] != 0:
            _crop_rotated(images[b], means[0], where, shift[b], angle[b], scale, centered, out[b])
            continue
        if sides[b, 0] != CROP or sides[b, 1] != CROP:
            _crop_resized(images[b], means[0], where, shift[b], scale, centered, out[b])
            continue
        for i in range(ROW):
            colour[i] = shift[b, i % 3]
        first, mean = 3 * left[b], means[0]
        mean_top, mean_first = top[b], first
        if centered:
            mean_top, mean_first = middle, 3 * middle
        elif flip[b]:
            mean, mean_first = means[1], 3 * side - ROW - first
        if flip[b]:
            _flip(images[b], top[b], first, flipped)
            _normalise(flipped, 0, 0, mean, mean_top, mean_first, colour, scale, out[b])
        else:
            _normalise(images[b], top[b], first, mean, mean_top, mean_first, colour, scale, out[b])


@cached_njit(nogil=True)
def _flip(image: Any, top: int, first: int, out: Any) -> None:
    """Write the crop's rows with their pixels reversed. Lengths are constants, and the reversed bytes go into
    an array of one row first, or the compiler would move one byte at a time."""
    row = np.empty(ROW, np.uint8)
    for y in range(CROP):
        pixels = image[top + y, first : first + ROW]
        for x in range(CROP):
            for c in range(3):
                row[3 * x + c] = pixels[3 * (CROP - 1 - x) + c]
        target = out[y]
        for i in range(ROW):
            target[i] = row[i]


@cached_njit(nogil=True, fastmath={"contract"})
def _normalise(
    image: Any,
    top: int,
    first: int,
    mean: Any,
    mean_top: int,
    mean_first: int,
    colour: Any,
    scale: Any,
    out: Any,
) -> None:
    """out = (image - mean + colour) * scale. Rows of pixels are plain rows of numbers, which vectorise."""
    for y in range(CROP):
        pixels = image[top + y, first : first + ROW]
        means = mean[mean_top + y, mean_first : mean_first + ROW]
        target = out[y]
        for i in range(ROW):
            target[i] = (pixels[i] - means[i] + colour[i]) * scale


@cached_njit(nogil=True, fastmath={"contract"})
def _crop_rotated(
    image: Any, mean: Any, where: Any, shift: Any, angle: Any, scale: Any, centered: bool, out: Any
) -> None:
    """As `_normalise`, with each pixel interpolated between the four around its place in the rotated image;
    beyond the image its edge is read."""
    top, left, height, width, flip = where
    side, last, half = len(image), len(image) - 1, 0.5 * CROP
    middle = (side - CROP) // 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    for y in range(CROP):
        for x in range(CROP):
            across = ((CROP - 1 - x if flip else x) + 0.5 - half) * width / CROP
            down = (y + 0.5 - half) * height / CROP
            u = min(max(left + 0.5 * width + cos * across - sin * down - 0.5, 0.0), float(last))
            v = min(max(top + 0.5 * height + sin * across + cos * down - 0.5, 0.0), float(last))
            u0, v0 = int(u), int(v)
            u1, v1 = min(u0 + 1, last), min(v0 + 1, last)
            for c in range(3):
                value = np.float32(0)
                for row, row_weight in ((v0, v0 + 1 - v), (v1, v - v0)):
                    for column, column_weight in ((u0, u0 + 1 - u), (u1, u - u0)):
                        pixel = np.float32(image[row, 3 * column + c])
                        if not centered:
                            pixel -= mean[row, 3 * column + c]
                        value += np.float32(row_weight * column_weight) * pixel
                if centered:
                    value -= mean[middle + y, 3 * (middle + x) + c]
                out[y, 3 * x + c] = (value + shift[c]) * scale


@cached_njit(nogil=True, fastmath={"contract"})
def _crop_resized(
    image: Any, mean: Any, where: Any, shift: Any, scale: Any, centered: bool, out: Any
) -> None:
    """As `_crop_rotated` for an angle of 0: two rows become one first, in a loop that vectorises, and then
    columns are interpolated."""
    top, left, height, width, flip = where
    side, last = len(image), len(image) - 1
    middle = (side - CROP) // 2
    row = np.empty(3 * side, np.float32)
    first, second = np.empty(CROP, np.int64), np.empty(CROP, np.int64)
    share = np.empty(CROP, np.float32)
    for x in range(CROP):
        u = left + ((CROP - 1 - x if flip else x) + 0.5) * width / CROP - 0.5
        u = min(max(u, 0.0), float(last))
        first[x], second[x] = 3 * int(u), 3 * min(int(u) + 1, last)
        share[x] = np.float32(u - int(u))
    for y in range(CROP):
        v = min(max(top + (y + 0.5) * height / CROP - 0.5, 0.0), float(last))
        v0, lower = int(v), np.float32(v - int(v))
        v1 = min(v0 + 1, last)
        if centered:
            for i in range(3 * side):
                above = np.float32(image[v0, i])
                row[i] = above + lower * (np.float32(image[v1, i]) - above)
        else:
            for i in range(3 * side):
                above = np.float32(image[v0, i]) - mean[v0, i]
                row[i] = above + lower * (np.float32(image[v1, i]) - mean[v1, i] - above)
        for x in range(CROP):
            for c in range(3):
                value = row[first[x] + c]
                value += share[x] * (row[second[x] + c] - value)
                if centered:
                    value -= mean[middle + y, 3 * (middle + x) + c]
                out[y, 3 * x + c] = (value + shift[c]) * scale
