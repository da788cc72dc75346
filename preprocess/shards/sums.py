"""Exact sums over the images of a shard, for the mean image and the covariance of the colours.

The sums are integers, so the result does not depend on the number of workers or on the order of the images.
"""

import io

import numpy as np
from numpy.typing import NDArray

from preprocess.shared.cached_njit import cached_njit

ROW = 48  # values: 16 pixels, a whole number of pixels and of vector registers
BLOCK = 32 * ROW  # values that are added in one go: they and their sums fit the L1 cache
BATCH = 4  # images that are added together, so that the sums (4 bytes a value) are read and written once


class Sums:
    """Exact sums over images. uint32 holds 2**32 / 255 = 16,843,009 images a shard."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self._shape = (size, size, 3)
        self._values = size * size * 3
        blocks = -(-self._values // BLOCK)
        self._pending = np.zeros((BATCH, blocks * BLOCK + 2), dtype=np.uint8)  # zeros at the end
        self._count_pending = 0
        self._position = np.zeros(blocks * BLOCK, dtype=np.uint32)
        self._products = np.zeros((3, ROW), dtype=np.int64)  # see _add

    def add(self, image: NDArray[np.uint8]) -> None:
        """Add an image, uint8 [S, S, 3]."""
        self._pending[self._count_pending, : self._values] = image.reshape(-1)
        self.count, self._count_pending = self.count + 1, self._count_pending + 1
        if self._count_pending == BATCH:
            self._add_pending()

    @property
    def position(self) -> NDArray[np.uint32]:
        """uint32 [S, S, 3]: the sum at each position."""
        self._add_pending()
        return self._position[: self._values].reshape(self._shape)

    @property
    def product(self) -> NDArray[np.int64]:
        """int64 [3, 3]: the sums of the products of two channels over all pixels."""
        self._add_pending()
        itself, first, second = self._products.reshape(3, -1, 3).sum(axis=1)
        rg, gb, rb = first[0], first[1], second[0]
        return np.array([[itself[0], rg, rb], [rg, itself[1], gb], [rb, gb, itself[2]]])

    def to_bytes(self) -> bytes:
        """The content of an .npz file with `count`, `position` and `product`."""
        buffer = io.BytesIO()
        np.savez(buffer, count=self.count, position=self.position, product=self.product)
        return buffer.getvalue()

    def _add_pending(self) -> None:
        _add(self._pending[: self._count_pending], self._position, self._products)
        self._count_pending = 0


@cached_njit()
def _add(images: NDArray[np.uint8], position: NDArray[np.uint32], products: NDArray[np.int64]) -> None:
    """Add at most 256 images, uint8 [B, V + 2], V values each.

    Args:
        images: flat images, at most 256 (uint16 holds 256 * 255); two zeros follow each.
        position: uint32 [V], gets the sum at each position.
        products: int64 [3, ROW], by place in a row: gets the products of a value with itself, with the next
            value and with the one after. Products of values of two pixels are made too, because contiguous
            values are what vector instructions take; `Sums.product` does not use them.
    """
    for begin in range(0, position.size, BLOCK):
        places = np.zeros(BLOCK, np.uint16)
        itself, first, second = np.zeros(ROW, np.int32), np.zeros(ROW, np.int32), np.zeros(ROW, np.int32)
        for image in range(len(images)):
            block = images[image, begin : begin + BLOCK + 2]
            for i in range(BLOCK):
                places[i] += block[i]
            for row in range(0, BLOCK, ROW):
                values = block[row:]  # indexed from 0: the compiler then knows that no index is negative
                for i in range(ROW):
                    value = np.int32(values[i])
                    itself[i] += value * value
                    first[i] += value * np.int32(values[i + 1])
                    second[i] += value * np.int32(values[i + 2])
        sums = position[begin : begin + BLOCK]
        for i in range(BLOCK):
            sums[i] += places[i]
        products[0] += itself
        products[1] += first
        products[2] += second
