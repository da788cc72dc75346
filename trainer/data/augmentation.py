"""From stored images to network input: crop, flip, mean image, PCA colour (paper, section 4.1), rotation.

What is drawn depends on (seed, epoch, place in the epoch's order) alone. `kernels.crop` does the arithmetic,
in training and in evaluation.

B batch, S side of the stored image (256); H = W is the crop's side (224).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer import kernels
from trainer.config import AugmentConfig
from trainer.errors import UserError
from trainer.kernels import Purpose, generator


@dataclass(frozen=True)
class Views:
    """Where each image is cropped, and how it is changed. Sizes are in pixels of the stored image."""

    top_B: NDArray[np.int64]
    left_B: NDArray[np.int64]
    sides_B2: NDArray[np.int64]
    """Height and width of the part that is resized to the crop's size, or is of that size."""
    flip_B: NDArray[np.bool_]
    shift_B3: NDArray[np.float32]
    """Added to every pixel's R, G, B, in units of 0..255."""
    angle_B: NDArray[np.float32]
    """Degrees by which the image is rotated about the crop's centre, counterclockwise, before the flip."""

    def __getitem__(self, which: Any) -> Views:
        return Views(*(getattr(self, f.name)[which] for f in fields(Views)))

    @staticmethod
    def join(parts: Sequence[Views]) -> Views:
        """One after the other."""
        return Views(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Views)))


REMEDY = "make another store: snakemake preprocess --config image_size=256 store=PATH"


def require_size(side: int, crop: int, where: object, remedy: str = REMEDY) -> None:
    """Raise UserError for images, or a mean image, that are smaller than a crop.

    side, crop: in pixels. where: what has these images, the subject of the sentence.
    """
    if side < crop:
        raise UserError(
            f"{where} has images of {side}x{side} pixels, and the network crops {crop}x{crop}: {remedy}."
        )


def color_axes(eigenvalues: NDArray[np.float64], eigenvectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, 3]: column i is the i-th principal axis times its standard deviation, the square root of the
    eigenvalue. The paper writes the eigenvalue itself, about 14,830 for the first: such shifts would leave
    no colours. cuda-convnet uses the root."""
    return eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))


def draw(
    settings: AugmentConfig, axes: NDArray[np.float64], seed: int, epoch: int, images: int, side: int = 256
) -> Views:
    """Draw the view of each place in one epoch's order; offsets 0..32 for 224 of 256, each equally likely."""
    rng = generator(seed, Purpose.AUGMENTATION, epoch)
    groups = -(-images // settings.crop_group)
    far = side - settings.crop_size
    offsets = rng.integers(0, far, size=(2, groups), endpoint=True)
    flips = rng.random(groups) < 0.5
    alphas = rng.standard_normal((images, 3))
    of_place = np.arange(images) // settings.crop_group
    top, left = offsets[:, of_place] if settings.crops else np.full((2, images), far // 2)
    colored = settings.color_epochs is None or epoch < settings.color_epochs
    shift = settings.color_std * alphas @ axes.T if colored else np.zeros((images, 3))
    angle = rng.uniform(-settings.rotation, settings.rotation, images)  # later draws change no earlier one
    sides = np.full((images, 2), settings.crop_size)
    least = settings.crop_area if settings.crops and settings.crop_area is not None else 1.0
    if least < 1:
        groups_G2 = sizes(rng, groups, side, least)
        top, left = rng.integers(0, side - groups_G2.T, endpoint=True)[:, of_place]
        sides = groups_G2[of_place]
    flip = (flips & settings.flips)[of_place]
    return Views(top, left, sides, flip, shift.astype(np.float32), angle.astype(np.float32))


def sizes(rng: np.random.Generator, count: int, side: int, least: float) -> NDArray[np.int64]:
    """Heights and widths [count, 2], in pixels, of parts of a square image.

    Their area is uniform in [least, 1] of the image's, and the logarithm of their height over their width
    within that of 3:4 and 4:3, as in GoogLeNet's training (Szegedy et al., 2015). A side that would be longer
    than the image's is as long.
    """
    area = rng.uniform(least, 1, count) * side**2
    root = np.exp(0.5 * rng.uniform(np.log(3 / 4), np.log(4 / 3), count))
    exact = np.sqrt(area)[:, None] * np.stack([root, 1 / root], 1)
    return np.clip(np.rint(exact), 1, side).astype(np.int64)


def fixed(images: int, top: int, left: int, flip: bool, size: int = kernels.CROP) -> Views:
    """One view for all images, without a colour shift. size: the crop's, in pixels."""
    return Views(
        np.full(images, top),
        np.full(images, left),
        np.full((images, 2), size),
        np.full(images, flip),
        np.zeros((images, 3), np.float32),
        np.zeros(images, np.float32),
    )


def center_crop(side: int, crop: int) -> list[tuple[int, int, bool]]:
    """The single central view of an image, as (top, left, flip); side, crop: in pixels."""
    return [((side - crop) // 2, (side - crop) // 2, False)]


def ten_crops(side: int, crop: int) -> list[tuple[int, int, bool]]:
    """The four corners and the centre, then the same flipped (paper, section 4.1)."""
    far = side - crop
    corners = [(0, 0), (0, far), (far, 0), (far, far), (far // 2, far // 2)]
    return [(top, left, flip) for flip in (False, True) for top, left in corners]


class Cropper:
    """Crops network input from stored images: (pixel - mean + colour shift) / divisor.

    The mean image is cropped like the image and flipped with it, or is always its centre when `mean_window`
    is "center". Threads can share one.
    """

    def __init__(
        self,
        mean_SS3: NDArray[np.float32],
        settings: AugmentConfig,
        training: bool,
        device: torch.device | None = None,
    ) -> None:
        """device: where the images will be; the CPU if it is not given. Raises ValueError for a mean image
        of another shape than [S, S, 3], or smaller than a crop."""
        side, self._size = len(mean_SS3), settings.crop_size
        if mean_SS3.shape != (side, side, 3) or side < self._size:
            raise ValueError(
                f"a mean image has the shape [S, S, 3], S at least {self._size}, not {list(mean_SS3.shape)}"
            )
        means_2SS3 = np.stack([mean_SS3, mean_SS3[:, ::-1]])
        self._means_2SS3 = torch.from_numpy(means_2SS3).to(device or "cpu")
        self._centered = settings.mean_window == "center"
        divisor = settings.divisor * (settings.train_divisor if training else 1.0)
        self._scale = float(np.float32(1 / divisor))

    def crop(self, images_BSS3: Tensor, views: Views, out_BHW3: Tensor | None = None) -> Tensor:
        """Images uint8 [B, S, S, 3] -> network input float32 [B, 3, H, W] in channels_last.

        out: memory for it, contiguous float32 [B, H, W, 3]. Raises ValueError for arrays that do not
        belong together and for crops beyond the images.
        """
        v = views
        where = v.top_B, v.left_B, v.sides_B2, v.flip_B, v.shift_B3, v.angle_B
        crops_BHW3 = kernels.crop(
            images_BSS3, self._means_2SS3, *where, self._scale, self._centered, self._size, out_BHW3
        )
        return crops_BHW3.permute(0, 3, 1, 2)


def crop(
    images_BSS3: NDArray[np.uint8],
    mean_SS3: NDArray[np.float32],
    views: Views,
    settings: AugmentConfig,
    training: bool,
) -> Tensor:
    """Images uint8 [B, S, S, 3] -> network input float32 [B, 3, H, W] in channels_last, on the CPU."""
    return Cropper(mean_SS3, settings, training).crop(torch.from_numpy(images_BSS3), views)
