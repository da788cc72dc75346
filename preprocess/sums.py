"""Exact sums over the pictures of a shard, from which the mean image and the colour axes follow.

Workers add up whole numbers, so that neither their number nor any order can change a bit of the result.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

ROW = 48  # numbers, 16 pixels: the least that is whole pixels and whole vectors of a processor
BLOCK = 32_768  # rows whose products fit in int32: 255 * 255 * 32,768 = 2,130,739,200 < 2**31


@dataclass(slots=True)
class Sums:
    """Exact sums over pictures. uint32 suffices for 2**32 / 255 = 16,843,009 pictures a shard."""

    size: int
    count: int = 0
    position: NDArray[np.uint32] = field(init=False)  # [S, S, 3] sum at each place of the picture
    _products: NDArray[np.int64] = field(init=False)  # [3, ROW], see _add_products

    def __post_init__(self) -> None:
        self.position = np.zeros((self.size, self.size, 3), dtype=np.uint32)
        self._products = np.zeros((3, ROW), dtype=np.int64)

    def add(self, image: NDArray[np.uint8]) -> None:
        """Add a picture, uint8 [S, S, 3]."""
        values = image.reshape(-1)
        self.count += 1
        _add(values, self.position.reshape(-1))
        done = _add_products(values, self._products)
        rest = np.zeros(3 * ROW, dtype=np.uint8)
        rest[: values.size - done] = values[done:]
        _add_products(rest, self._products)

    @property
    def product(self) -> NDArray[np.int64]:
        """[3, 3] sum of the products of two channels."""
        itself, first, second = self._products.reshape(3, -1, 3).sum(axis=1)
        rg, gb, rb = first[0], first[1], second[0]
        return np.array([[itself[0], rg, rb], [rg, itself[1], gb], [rb, gb, itself[2]]])

    def pack(self) -> bytes:
        """As the bytes of an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, count=self.count, position=self.position, product=self.product)
        return buffer.getvalue()


@njit(cache=True)
def _add(values: NDArray[np.uint8], sums: NDArray[np.uint32]) -> None:
    for i in range(values.size):
        sums[i] += values[i]


@njit(cache=True)
def _add_products(values: NDArray[np.uint8], products: NDArray[np.int64]) -> int:
    """Add each number times itself and times the first and the second after it, by its place in a row;
    return how many were taken. Of contiguous numbers the processor takes sixteen at a time; what is no
    product of channels of one pixel nobody reads."""
    rows = (values.size - 2) // ROW
    for begin in range(0, rows, BLOCK):
        itself, first, second = np.zeros(ROW, np.int32), np.zeros(ROW, np.int32), np.zeros(ROW, np.int32)
        block = values[begin * ROW :]  # counted from 0, so that the compiler sees no negative index
        for row in range(min(BLOCK, rows - begin)):
            for i in range(ROW):
                value = np.int32(block[row * ROW + i])
                itself[i] += value * value
                first[i] += value * np.int32(block[row * ROW + i + 1])
                second[i] += value * np.int32(block[row * ROW + i + 2])
        products[0] += itself
        products[1] += first
        products[2] += second
    return rows * ROW
