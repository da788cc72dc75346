"""From stored pictures to network input: crop, flip, mean image, PCA colour (paper, section 4.1), rotation.

What is drawn depends on (seed, epoch, place in the epoch's order) alone. The arithmetic is one compiled loop
over bytes, crop_numba.py; the same loop cuts the views of evaluation.

B batch, S side of the stored picture (256), the crop's side is 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import AugmentConfig
from trainer.errors import UserError
from trainer.kernels import crop_numba
from trainer.kernels.counter_rng import Purpose, generator
from trainer.kernels.crop_numba import CROP, ROW


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

    def check(self, side: int, which: Any = ...) -> None:
        """Raises ValueError where `which` of the views reach beyond an image of S pixels a side."""
        B = len(self.top_B)
        for name, shape in (("left_B", (B,)), ("flip_B", (B,)), ("shift_B3", (B, 3)), ("angle_B", (B,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has the shape {getattr(self, name).shape}, not {shape}")
        for name, first_B in (("top_B", self.top_B), ("left_B", self.left_B)):
            first = first_B[which].tolist()  # of a few numbers Python finds the least sooner than NumPy does
            if first and not 0 <= min(first) <= max(first) <= side - CROP:
                raise ValueError(
                    f"{name} has {min(first)} to {max(first)}, and a crop of {CROP} pixels begins at 0 to "
                    f"{side - CROP} in an image of {side}x{side}"
                )

    @staticmethod
    def join(parts: Sequence[Views]) -> Views:
        """One after the other."""
        return Views(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Views)))


REMEDY = "make another store: snakemake preprocess --config image_size=256 store=PATH"


def require_size(side: int, where: object, remedy: str = REMEDY) -> None:
    """Raises UserError for images, or a mean image, of fewer pixels a side than the crops that are cut of it.

    where: what has these images, as the sentence's subject.
    """
    if side < CROP:
        raise UserError(
            f"{where} has images of {side}x{side} pixels, and the network crops {CROP}x{CROP}: {remedy}."
        )


def color_axes(eigenvalues: NDArray[np.float64], eigenvectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, 3]: column i is the i-th principal axis times its standard deviation, the square root of the
    eigenvalue. The paper writes the eigenvalue itself, about 14,830 for the first: colours would wash out;
    the program used the root."""
    return eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))


def draw(
    settings: AugmentConfig, axes: NDArray[np.float64], seed: int, epoch: int, images: int, side: int = 256
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


class Cutter:
    """Cuts network input out of pictures: (pixel - mean + colour shift) / divisor.

    The mean image is cut like the picture and mirrored with it, or is always its centre when `mean_window`
    says so. Threads can share one.
    """

    def __init__(self, mean_SS3: NDArray[np.float32], settings: AugmentConfig, training: bool) -> None:
        side = len(mean_SS3)
        if mean_SS3.shape != (side, side, 3) or side < CROP:
            raise ValueError(
                f"a mean image has the shape [S, S, 3], S at least {CROP}, and not {list(mean_SS3.shape)}"
            )
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
        """Picture k, uint8, by view b = places_K[k] into out_BHW3[b], float32 [224, 224, 3]; contiguous.

        Raises ValueError for arrays that do not belong together: the compiled loops check no index.
        """
        self._check(pictures_KSS3, views, places_K, out_BHW3)
        turned_K = views.angle_B[places_K] != 0
        if turned_K.any():
            pieces, mean_SS3 = views[places_K[turned_K]], self._mean.reshape(self._side, self._side, 3)
            where = (pieces.top_B, pieces.left_B, pieces.flip_B, pieces.shift_B3, pieces.angle_B)
            if not np.isfinite(pieces.angle_B).all():
                raise ValueError("an angle is not a finite number")
            turned = np.empty((len(pieces.top_B), CROP, CROP, 3), np.float32)
            crop_numba.cut_turned(
                pictures_KSS3[turned_K], mean_SS3, *where, self._scale, self._centered, turned
            )
            out_BHW3[places_K[turned_K]] = turned
            pictures_KSS3, places_K = pictures_KSS3[~turned_K], places_K[~turned_K]
        crop_numba.cut(
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

    def _check(
        self,
        pictures_KSS3: NDArray[np.uint8],
        views: Views,
        places_K: NDArray[np.int64],
        out_BHW3: NDArray[np.float32],
    ) -> None:
        """Once a call, never for a pixel."""
        expected = (len(places_K), self._side, self._side, 3)
        if pictures_KSS3.shape != expected or pictures_KSS3.dtype != np.uint8:
            raise ValueError(
                f"images are {pictures_KSS3.dtype} {list(pictures_KSS3.shape)}, not uint8 {list(expected)}"
            )
        crops = (len(out_BHW3), CROP, CROP, 3)
        if out_BHW3.shape != crops or out_BHW3.dtype != np.float32 or not out_BHW3.flags.c_contiguous:
            raise ValueError(
                f"the output is {out_BHW3.dtype} {list(out_BHW3.shape)}, not contiguous float32 {list(crops)}"
            )
        places, there = places_K.tolist(), min(len(views.top_B), len(out_BHW3))
        if places and not 0 <= min(places) <= max(places) < there:
            raise ValueError(f"places {min(places)} to {max(places)} are not within 0 to {there - 1}")
        views.check(self._side, places_K)


def input_scale(settings: AugmentConfig, training: bool) -> np.float32:
    """What pixels less the mean are multiplied by."""
    return np.float32(1 / (settings.divisor * (settings.train_divisor if training else 1.0)))


def cut(
    images_BSS3: NDArray[np.uint8],
    mean_SS3: NDArray[np.float32],
    views: Views,
    settings: AugmentConfig,
    training: bool,
) -> Tensor:
    """Pictures uint8 [B, S, S, 3] -> network input float32 [B, 3, 224, 224] in channels_last."""
    out = np.empty((len(images_BSS3), CROP, CROP, 3), np.float32)
    Cutter(mean_SS3, settings, training).cut(images_BSS3, views, np.arange(len(out)), out)
    return torch.from_numpy(out).permute(0, 3, 1, 2)
