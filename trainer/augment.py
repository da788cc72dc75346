"""From stored pictures to network input: crop, flip, mean image, PCA colour (paper, section 4.1), rotation.

What is drawn depends on (seed, epoch, place in the epoch's order) alone. The arithmetic is one compiled loop
over bytes; the same loop cuts the views of evaluation.

B batch, S side of the stored picture (256), the crop's side is 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Augment
from trainer.randomness import Purpose, generator

CROP = 224
ROW = 3 * CROP  # numbers in a row of the crop


@dataclass(frozen=True)
class Views:
    """Where each picture is cut, and how it is changed."""

    top_B: NDArray[np.int64]
    left_B: NDArray[np.int64]
    flip_B: NDArray[np.bool_]
    shift_B3: NDArray[np.float32]
    """Added to every pixel's R, G, B, in units of 0..255."""
    angle_B: NDArray[np.float32]
    """Degrees that the picture is turned by about the crop's centre, counterclockwise, before the flip."""

    def __getitem__(self, which: Any) -> Views:
        return Views(*(getattr(self, f.name)[which] for f in fields(Views)))

    @staticmethod
    def join(parts: Sequence[Views]) -> Views:
        """One after the other."""
        return Views(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Views)))


def color_axes(eigenvalues: NDArray[np.float64], eigenvectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, 3]: column i is the i-th principal axis times its standard deviation, the square root of the
    eigenvalue. The paper writes the eigenvalue itself, about 14,830 for the first: colours would wash out;
    the program used the root."""
    return eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))


def draw(
    settings: Augment, axes: NDArray[np.float64], seed: int, epoch: int, images: int, side: int = 256
) -> Views:
    """What every place of one epoch's order is given; offsets 0..32 for 224 of 256, each equally likely."""
    rng = generator(seed, Purpose.AUGMENTATION, epoch)
    groups = -(-images // settings.crop_group)
    offsets = rng.integers(0, side - CROP, size=(2, groups), endpoint=True)
    flips = rng.random(groups) < 0.5
    alphas = rng.standard_normal((images, 3))
    of_place = np.arange(images) // settings.crop_group
    top, left = offsets[:, of_place] if settings.crops else np.full((2, images), (side - CROP) // 2)
    colored = settings.color_epochs is None or epoch < settings.color_epochs
    shift = settings.color_std * alphas @ axes.T if colored else np.zeros((images, 3))
    angle = rng.uniform(-settings.rotation, settings.rotation, images)  # drawn last: it changes no other draw
    return Views(
        top, left, (flips & settings.flips)[of_place], shift.astype(np.float32), angle.astype(np.float32)
    )


def fixed(images: int, top: int, left: int, flip: bool) -> Views:
    """One view for all pictures, without a change of colour."""
    return Views(
        np.full(images, top),
        np.full(images, left),
        np.full(images, flip),
        np.zeros((images, 3), np.float32),
        np.zeros(images, np.float32),
    )


def center_crop(side: int = 256) -> list[tuple[int, int, bool]]:
    """The single central view, as (top, left, flip)."""
    return [((side - CROP) // 2, (side - CROP) // 2, False)]


def ten_crops(side: int = 256) -> list[tuple[int, int, bool]]:
    """The four corners and the centre, then their mirror images (paper, section 4.1)."""
    far = side - CROP
    corners = [(0, 0), (0, far), (far, 0), (far, far), (far // 2, far // 2)]
    return [(top, left, flip) for flip in (False, True) for top, left in corners]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _cut(
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
def _cut_turned(
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


class Cutter:
    """Cuts network input out of pictures: (pixel - mean + colour shift) / divisor.

    The mean image is cut like the picture and mirrored with it, or is always its centre when `mean_window`
    says so. Threads can share one.
    """

    def __init__(self, mean_SS3: NDArray[np.float32], settings: Augment, training: bool) -> None:
        side = len(mean_SS3)
        self._side = side
        self._centered = settings.mean_window == "center"
        mirrored = np.ascontiguousarray(mean_SS3[:, ::-1])
        self._mean, self._mirrored = (m.reshape(side, side * 3) for m in (mean_SS3, mirrored))
        self._scale = input_scale(settings, training)

    def cut(
        self,
        pictures_KSS3: NDArray[np.uint8],
        views: Views,
        places_K: NDArray[np.int64],
        out_BHW3: NDArray[np.float32],
    ) -> None:
        """Picture k, uint8, by view b = places_K[k] into out_BHW3[b], float32 [224, 224, 3]; contiguous."""
        turned_K = views.angle_B[places_K] != 0
        if turned_K.any():
            pieces, mean_SS3 = views[places_K[turned_K]], self._mean.reshape(self._side, self._side, 3)
            where = (pieces.top_B, pieces.left_B, pieces.flip_B, pieces.shift_B3, pieces.angle_B)
            turned = np.empty((len(pieces.top_B), CROP, CROP, 3), np.float32)
            _cut_turned(pictures_KSS3[turned_K], mean_SS3, *where, self._scale, self._centered, turned)
            out_BHW3[places_K[turned_K]] = turned
            pictures_KSS3, places_K = pictures_KSS3[~turned_K], places_K[~turned_K]
        _cut(
            pictures_KSS3.reshape(len(pictures_KSS3), self._side, self._side * 3),
            self._mean,
            self._mirrored,
            places_K,
            views.top_B,
            views.left_B,
            views.flip_B,
            views.shift_B3,
            self._scale,
            self._centered,
            out_BHW3.reshape(len(out_BHW3), CROP, ROW),
        )


def input_scale(settings: Augment, training: bool) -> np.float32:
    """What pixels less the mean are multiplied by."""
    return np.float32(1 / (settings.divisor * (settings.train_divisor if training else 1.0)))


def cut(
    images_BSS3: NDArray[np.uint8],
    mean_SS3: NDArray[np.float32],
    views: Views,
    settings: Augment,
    training: bool,
) -> Tensor:
    """Pictures uint8 [B, S, S, 3] -> network input float32 [B, 3, 224, 224] in channels_last."""
    out = np.empty((len(images_BSS3), CROP, CROP, 3), np.float32)
    Cutter(mean_SS3, settings, training).cut(images_BSS3, views, np.arange(len(out)), out)
    return torch.from_numpy(out).permute(0, 3, 1, 2)
