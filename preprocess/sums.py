"""Exact sums over the pictures of a shard, from which the mean image and the colour axes follow.

Workers add up whole numbers, so that neither their number nor any order can change a bit of the result.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 32_768  # pixels whose products fit in int32: 255 * 255 * 32,768 = 2,130,739,200 < 2**31


@dataclass(slots=True)
class Sums:
    """Exact sums over pictures. uint32 suffices for 2**32 / 255 = 16,843,009 pictures a shard."""

    size: int
    count: int = 0
    position: NDArray[np.uint32] = field(init=False)  # [S, S, 3] sum at each place of the picture
    product: NDArray[np.int64] = field(init=False)  # [3, 3] sum of the products of two channels

    def __post_init__(self) -> None:
        self.position = np.zeros((self.size, self.size, 3), dtype=np.uint32)
        self.product = np.zeros((3, 3), dtype=np.int64)

    def add(self, image: NDArray[np.uint8]) -> None:
        """Add a picture, uint8 [S, S, 3]."""
        self.count += 1
        _add(image.reshape(-1), self.position.reshape(-1))
        _add_products(image.reshape(-1, 3), self.product)

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
def _add_products(pixels: NDArray[np.uint8], product: NDArray[np.int64]) -> None:
    for begin in range(0, pixels.shape[0], BLOCK):
        rr = rg = rb = gg = gb = bb = np.int32(0)
        for i in range(begin, min(begin + BLOCK, pixels.shape[0])):
            r, g, b = np.int32(pixels[i, 0]), np.int32(pixels[i, 1]), np.int32(pixels[i, 2])
            # int32 from end to end lets the processor add eight or sixteen at a time
            rr, rg, rb = np.int32(rr + r * r), np.int32(rg + r * g), np.int32(rb + r * b)
            gg, gb, bb = np.int32(gg + g * g), np.int32(gb + g * b), np.int32(bb + b * b)
        product += np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]]).astype(np.int64)
