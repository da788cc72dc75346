"""Exact sums over the pictures of a shard, from which the mean image and the colour axes follow.

Workers add up whole numbers, so that neither their number nor any order can change a bit of the result.
"""

import io

import numpy as np
from numba import njit
from numpy.typing import NDArray

ROW = 48  # numbers, 16 pixels: the least that is whole pixels and whole vectors of a processor
BLOCK = 32 * ROW  # numbers that are added together: they and their sums stay in the first cache
BATCH = (
    4  # pictures that wait for each other: the sums of all places, four times as long, pass by once for them
)


class Sums:
    """Exact sums over pictures. uint32 suffices for 2**32 / 255 = 16,843,009 pictures a shard."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self._shape = (size, size, 3)
        self._numbers = size * size * 3
        blocks = -(-self._numbers // BLOCK)
        self._waiting = np.zeros((BATCH, blocks * BLOCK + 2), dtype=np.uint8)  # zeros at the end add nothing
        self._waits = 0
        self._position = np.zeros(blocks * BLOCK, dtype=np.uint32)
        self._products = np.zeros((3, ROW), dtype=np.int64)  # see _add

    def add(self, image: NDArray[np.uint8]) -> None:
        """Add a picture, uint8 [S, S, 3]."""
        self._waiting[self._waits, : self._numbers] = image.reshape(-1)
        self.count, self._waits = self.count + 1, self._waits + 1
        if self._waits == BATCH:
            self._settle()

    @property
    def position(self) -> NDArray[np.uint32]:
        """[S, S, 3] sum at each place of the picture."""
        self._settle()
        return self._position[: self._numbers].reshape(self._shape)

    @property
    def product(self) -> NDArray[np.int64]:
        """[3, 3] sum of the products of two channels."""
        self._settle()
        itself, first, second = self._products.reshape(3, -1, 3).sum(axis=1)
        rg, gb, rb = first[0], first[1], second[0]
        return np.array([[itself[0], rg, rb], [rg, itself[1], gb], [rb, gb, itself[2]]])

    def pack(self) -> bytes:
        """As the bytes of an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, count=self.count, position=self.position, product=self.product)
        return buffer.getvalue()

    def _settle(self) -> None:
        """Add the pictures that wait."""
        _add(self._waiting[: self._waits], self._position, self._products)
        self._waits = 0


@njit(cache=True)
def _add(pictures: NDArray[np.uint8], position: NDArray[np.uint32], products: NDArray[np.int64]) -> None:
    """Add at most 256 pictures: each number to its place, and its products with itself and with the first
    and the second after it, by its place in a row. Of contiguous numbers the processor takes many at a time;
    what is no product of channels of one pixel nobody reads."""
    for begin in range(0, position.size, BLOCK):
        places = np.zeros(BLOCK, np.uint16)
        itself, first, second = np.zeros(ROW, np.int32), np.zeros(ROW, np.int32), np.zeros(ROW, np.int32)
        for picture in range(len(pictures)):
            block = pictures[picture, begin : begin + BLOCK + 2]
            for i in range(BLOCK):
                places[i] += block[i]
            for row in range(0, BLOCK, ROW):
                values = block[row:]  # counted from 0, so that the compiler sees no negative index
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
