"""The loader's limit: raw images in a memory map, gathered and changed in one compiled loop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError
from preprocess.store import Store
from trainer.config import AugmentConfig
from trainer.data import augmentation
from trainer.data.batches import epoch_order
from trainer.kernels import CROP

COPIED_AT_ONCE = 256  # images, 48 MiB


class FusedGather:
    """Batches of the same images, crops, flips and colours as the trainer's first epoch."""

    def __init__(
        self, store: Store, settings: AugmentConfig, seed: int, batch: int, raw: Path, threads: int = 1
    ) -> None:
        images, side = len(store.train), store.image_size
        axes = augmentation.color_axes(store.eigenvalues, store.eigenvectors)
        self.order = epoch_order(seed, 0, images)
        self.views = augmentation.draw(settings, axes, seed, 0, images, side)
        self.mean = store.mean.reshape(side, side * 3)
        self.scale = np.float32(1 / (settings.divisor * settings.train_divisor))
        self.raw = np.asarray(_copy(store, raw))
        self.threads = threads
        self.out = np.empty((batch, CROP, CROP * 3), np.float32)

    def __call__(self, step: int) -> NDArray[np.float32]:
        """A batch, float32 [B, 224, 224 * 3], in the one buffer that all batches share."""
        batch = len(self.out)
        places = (step * batch + np.arange(batch)) % len(self.order)
        v = self.views[places]
        where = (self.order[places], v.top_B, v.left_B, v.flip_B)
        before = numba.get_num_threads()
        numba.set_num_threads(self.threads)
        _gather(self.raw, self.mean, *where, v.shift_B3, self.scale, self.out)
        numba.set_num_threads(before)
        return self.out


@numba.njit(cache=True, nogil=True, parallel=True)
def _gather(
    raw: Any, mean: Any, images: Any, top: Any, left: Any, flip: Any, shift: Any, scale: Any, out: Any
) -> None:
    width = out.shape[2]
    for b in numba.prange(out.shape[0]):
        colour = np.empty(width, np.float32)
        flipped = np.empty(width, np.float32)
        for i in range(width):
            colour[i] = shift[b, i % 3]
        first = 3 * left[b]
        for y in range(out.shape[1]):
            pixels = raw[images[b], top[b] + y, first : first + width]
            means = mean[top[b] + y, first : first + width]
            target = flipped if flip[b] else out[b, y]
            for i in range(width):
                target[i] = (pixels[i] - means[i] + colour[i]) * scale
            if flip[b]:
                for x in range(0, width, 3):
                    for c in range(3):
                        out[b, y, x + c] = flipped[width - 3 - x + c]


def _copy(store: Store, path: Path) -> Any:
    """All training images as a raw file, uint8 [N, S, S * 3], mapped; made once."""
    images, side = len(store.train), store.image_size
    if path.exists():
        return np.memmap(path, np.uint8, "r", shape=(images, side, side * 3))
    size = images * side * side * 3
    if size > (free := shutil.disk_usage(path.parent).free):
        raise UserError(
            f"the raw copy of {store.path} takes {size / 1e9:.0f} GB, {path.parent} has {free / 1e9:.0f}: "
            "name a smaller --store, or set TMPDIR to a larger disk"
        )
    with path.open("wb") as file:
        for first in range(0, images, COPIED_AT_ONCE):
            store.train.read(np.arange(first, min(first + COPIED_AT_ONCE, images))).tofile(file)
    return np.memmap(path, np.uint8, "r", shape=(images, side, side * 3))
