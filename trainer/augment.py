"""From stored pictures to network input: crop, flip, mean image, PCA colour (paper, section 4.1).

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

    def __getitem__(self, which: Any) -> Views:
        return Views(self.top_B[which], self.left_B[which], self.flip_B[which], self.shift_B3[which])

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
    return Views(top, left, (flips & settings.flips)[of_place], shift.astype(np.float32))


def fixed(images: int, top: int, left: int, flip: bool) -> Views:
    """One view for all pictures, without a change of colour."""
    return Views(
        np.full(images, top),
        np.full(images, left),
        np.full(images, flip),
        np.zeros((images, 3), np.float32),
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
    images: Any, mean: Any, top: Any, left: Any, flip: Any, shift: Any, scale: Any, centered: bool, out: Any
) -> None:
    middle = (images.shape[1] - out.shape[1]) // 2
    side = out.shape[1]
    for b in range(out.shape[0]):
        red, green, blue = shift[b, 0], shift[b, 1], shift[b, 2]
        for y in range(side):
            pixels = images[b, top[b] + y]
            mean_row = mean[middle + y if centered else top[b] + y]
            target = out[b, y]
            for x in range(side):
                source = left[b] + (side - 1 - x if flip[b] else x)
                m = middle + x if centered else source
                target[x, 0] = (pixels[source, 0] - mean_row[m, 0] + red) * scale
                target[x, 1] = (pixels[source, 1] - mean_row[m, 1] + green) * scale
                target[x, 2] = (pixels[source, 2] - mean_row[m, 2] + blue) * scale


def cut(
    images_BSS3: NDArray[np.uint8],
    mean_SS3: NDArray[np.float32],
    views: Views,
    settings: Augment,
    training: bool,
) -> Tensor:
    """Pictures uint8 [B, S, S, 3] -> network input float32 [B, 3, 224, 224] in channels_last.

    (pixel - mean + colour shift) / divisor, the mean image cut like the picture and mirrored with it, or
    always its centre when `mean_window` says so.
    """
    out = np.empty((len(images_BSS3), CROP, CROP, 3), np.float32)
    scale = np.float32(1 / (settings.divisor * (settings.train_divisor if training else 1.0)))
    _cut(
        images_BSS3,
        mean_SS3,
        views.top_B,
        views.left_B,
        views.flip_B,
        views.shift_B3,
        scale,
        settings.mean_window == "center",
        out,
    )
    return torch.from_numpy(out).permute(0, 3, 1, 2)
