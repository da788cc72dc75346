"""The compiled loops behind augment.py: bytes of pictures in, numbers for the network out.

b place in a batch, k picture of the few that are cut at a time, S side of the stored picture.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

CROP = 224
ROW = 3 * CROP  # numbers in a row of the crop


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def cut(
    pictures: Any,
    mean: Any,
    mirrored_mean: Any,
    places: Any,
    top: Any,
    left: Any,
    flip: Any,
    shift: Any,
    scale: Any,
    centered: bool,
    out: Any,
) -> None:
    """Picture k, [S, 3 S], is cut by view b = places[k] into out[b], [224, 3 * 224]."""
    colour = np.empty(ROW, np.float32)
    mirrored = np.empty((CROP, ROW), np.uint8)
    for k in range(len(places)):
        b = places[k]
        for i in range(ROW):
            colour[i] = shift[b, i % 3]
        first, means = 3 * left[b], mean
        mean_top, mean_first = top[b], first
        if centered:
            mean_top = (mean.shape[0] - CROP) // 2
            mean_first = 3 * mean_top
        elif flip[b]:
            means, mean_first = mirrored_mean, mean.shape[1] - ROW - first
        if flip[b]:
            _mirror(pictures[k], top[b], first, mirrored)
            _normalise(mirrored, 0, 0, means, mean_top, mean_first, colour, scale, out[b])
        else:
            _normalise(pictures[k], top[b], first, means, mean_top, mean_first, colour, scale, out[b])


@numba.njit(cache=True, nogil=True)
def _mirror(picture: Any, top: int, first: int, out: Any) -> None:
    """The crop's rows, their pixels in reverse. Lengths are constants, and the reversed bytes go into a row
    of their own, or the compiler would take one byte at a time."""
    row = np.empty(ROW, np.uint8)
    for y in range(CROP):
        pixels = picture[top + y, first : first + ROW]
        for x in range(CROP):
            for c in range(3):
                row[3 * x + c] = pixels[3 * (CROP - 1 - x) + c]
        target = out[y]
        for i in range(ROW):
            target[i] = row[i]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _normalise(
    picture: Any,
    top: int,
    first: int,
    mean: Any,
    mean_top: int,
    mean_first: int,
    colour: Any,
    scale: Any,
    out: Any,
) -> None:
    """out = (picture - mean + colour) * scale; rows of pixels as plain rows of numbers, which vectorise."""
    for y in range(CROP):
        pixels = picture[top + y, first : first + ROW]
        means = mean[mean_top + y, mean_first : mean_first + ROW]
        target = out[y]
        for i in range(ROW):
            target[i] = (pixels[i] - means[i] + colour[i]) * scale


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def cut_turned(
    images: Any,
    mean: Any,
    top: Any,
    left: Any,
    flip: Any,
    shift: Any,
    angle: Any,
    scale: Any,
    centered: bool,
    out: Any,
) -> None:
    """As `_normalise`, each pixel interpolated between the four around its place in the turned picture; what
    lies beyond the picture is its edge."""
    last, side = images.shape[1] - 1, out.shape[1]
    middle, half = (images.shape[1] - side) // 2, 0.5 * side
    for b in range(out.shape[0]):
        cos, sin = np.cos(np.radians(angle[b])), np.sin(np.radians(angle[b]))
        for y in range(side):
            for x in range(side):
                across = (side - 1 - x if flip[b] else x) + 0.5 - half
                down = y + 0.5 - half
                u = min(max(left[b] + half + cos * across - sin * down - 0.5, 0.0), float(last))
                v = min(max(top[b] + half + sin * across + cos * down - 0.5, 0.0), float(last))
                x0, y0 = int(u), int(v)
                x1, y1 = min(x0 + 1, last), min(y0 + 1, last)
                for c in range(3):
                    value = np.float32(0)
                    for row, row_share in ((y0, y0 + 1 - v), (y1, v - y0)):
                        for column, share in ((x0, x0 + 1 - u), (x1, u - x0)):
                            pixel = np.float32(images[b, row, column, c])
                            if not centered:
                                pixel -= mean[row, column, c]
                            value += np.float32(row_share * share) * pixel
                    if centered:
                        value -= mean[middle + y, middle + x, c]
                    out[b, y, x, c] = (value + shift[b, c]) * scale
