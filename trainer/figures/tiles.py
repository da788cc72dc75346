"""Images of equal size in rows of one image, and patches of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY = 190  # of a patch beyond the image's edge, 0..255


def arrange(tiles: Sequence[NDArray[Any]], columns: int, gap: int) -> NDArray[Any]:
    """Put images [H, W, 3] in rows of one image, with `gap` white pixels between them.

    The images are uint8, 0..255, or floating-point, 0..1.
    """
    height, width, _ = tiles[0].shape
    white = 255 if tiles[0].dtype == np.uint8 else 1
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    size = rows * (height + gap) - gap, columns * (width + gap) - gap, 3
    page = np.full(size, white, tiles[0].dtype)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        page[top : top + height, left : left + width] = tile
    return page


def patch(image_HW3: NDArray[np.uint8], top: int, left: int, side: int) -> NDArray[np.uint8]:
    """A square of an image, uint8 [side, side, 3]; grey where it is beyond the image's edge."""
    found = np.full((side, side, 3), GREY, np.uint8)
    inside = image_HW3[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    height, width, _ = inside.shape
    found[max(-top, 0) :, max(-left, 0) :][:height, :width] = inside
    return found


def enlarge(image_HW3: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an image to uint8 [side, side, 3]; a small one shows its pixels as squares."""
    kind = Image.Resampling.NEAREST if len(image_HW3) < side / 5 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image_HW3).resize((side, side), kind))
