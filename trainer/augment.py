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
def _normalise(
    picture: Any, mean: Any, place: Any, mean_place: Any, shift: Any, scale: Any, colour: Any, out: Any
) -> None:
    """out = (picture - mean + shift) * scale; rows of pixels as plain rows of numbers, which vectorise."""
    width = out.shape[1]
    for i in range(width):
        colour[i] = shift[i % 3]
    first, first_mean = 3 * place[1], 3 * mean_place[1]
    for y in range(out.shape[0]):
        pixels = picture[place[0] + y, first : first + width]
        means = mean[mean_place[0] + y, first_mean : first_mean + width]
        target = out[y]
        for i in range(width):
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
        self._side, self._middle = side, (side - CROP) // 2
        self._centered = settings.mean_window == "center"
        mirrored = np.ascontiguousarray(mean_SS3[:, ::-1])
        self._mean, self._mirrored = (m.reshape(side, side * 3) for m in (mean_SS3, mirrored))
        self._scale = input_scale(settings, training)

    def cut(self, picture_SS3: NDArray[np.uint8], views: Views, b: int, out_HW3: NDArray[np.float32]) -> None:
        """One picture, uint8 [S, S, 3], by view `b`, into float32 [224, 224, 3]; both contiguous."""
        top, left, side = int(views.top_B[b]), int(views.left_B[b]), self._side
        mean = self._mean
        if views.angle_B[b]:
            pieces = views[b : b + 1]
            where = (pieces.top_B, pieces.left_B, pieces.flip_B, pieces.shift_B3, pieces.angle_B)
            mean_SS3 = mean.reshape(side, side, 3)
            _cut_turned(picture_SS3[None], mean_SS3, *where, self._scale, self._centered, out_HW3[None])
            return
        if views.flip_B[b]:
            # torch mirrors many bytes at once; a loop that mirrors triples takes longer than all the rest
            picture_SS3 = torch.from_numpy(picture_SS3).flip(1).numpy()
            mean, left = self._mirrored, side - CROP - left
        mean_place = (top, left)
        if self._centered:
            mean, mean_place = self._mean, (self._middle, self._middle)
        _normalise(
            picture_SS3.reshape(side, side * 3),
            mean,
            (top, left),
            mean_place,
            views.shift_B3[b],
            self._scale,
            np.empty(CROP * 3, np.float32),
            out_HW3.reshape(CROP, CROP * 3),
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
    cutter = Cutter(mean_SS3, settings, training)
    for b, picture in enumerate(images_BSS3):
        cutter.cut(picture, views, b, out[b])
    return torch.from_numpy(out).permute(0, 3, 1, 2)
