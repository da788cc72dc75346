"""Stage 3: the training pixels' mean image, and the axes along which their colours vary.

Workers add up whole numbers, this stage adds up the shards' sums and divides once. Sums of integers do not
depend on their order, so that any number of workers gives the same bytes.

Usage: python -m preprocess.statistics --store PATH
"""

import argparse
import io
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preprocess import layout, stage
from preprocess.errors import UserError
from preprocess.files import write_json
from preprocess.plan import load, manifest, sums_path

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


def mean_image(count: int, position: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Sums at each place, uint64 [S, S, 3] -> mean image, float32 [S, S, 3], 0..255."""
    return (position / count).astype(np.float32)


def covariance(count: int, position: NDArray[np.uint64], product: NDArray[np.int64]) -> NDArray[np.float64]:
    """Covariance of the colours of all pixels, float64 [3, 3], in squared steps of 0..255.

    (n * sum xy - sum x * sum y) / n**2 in whole numbers of any length, rounded once at the end.

    Args:
        count: pictures.
        position: uint64 [S, S, 3], sums at each place.
        product: int64 [3, 3], sums of the products of two channels.
    """
    pixels = count * position.shape[0] * position.shape[1]
    total = [int(channel) for channel in position.sum(axis=(0, 1))]
    return np.array(
        [
            [float(Fraction(pixels * int(product[i, j]) - total[i] * total[j], pixels**2)) for j in range(3)]
            for i in range(3)
        ]
    )


def eigenbasis(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues [3], largest first, and eigenvectors [3, 3], one a column.

    An eigenvector is known but for its sign: here its component of largest magnitude is positive.
    """
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, range(3)])


def statistics(arguments: argparse.Namespace) -> str:
    """Add up the sums of all training shards and write the group `statistics`."""
    store: Path = arguments.store
    plan = load(store)
    count, product = 0, np.zeros((3, 3), dtype=np.int64)
    position = np.zeros((plan.image_size, plan.image_size, 3), dtype=np.uint64)
    for shard in range(plan.shards("train")):
        path = sums_path(store, shard)
        if not path.is_file():
            raise UserError(f"{path} is missing: run `python -m preprocess.verify --store {store}` to repair")
        with np.load(path) as sums:
            count += int(sums["count"])
            position += sums["position"]
            product += sums["product"]
    assert count == plan.counts["train"]
    matrix = covariance(count, position, product)
    values, vectors = eigenbasis(matrix)
    arrays = {"covariance": matrix, "eigenvalues": values, "eigenvectors": vectors}
    layout.write_statistics(store, {"mean": mean_image(count, position), **arrays})
    write_json(manifest(store, "statistics"), {"identity": plan.identity, "pictures": count})
    deviations = " ".join(f"{value:.1f}" for value in np.sqrt(np.maximum(values, 0)))
    return f"mean image and colour axes of {count} pictures; standard deviation along the axes {deviations}"


if __name__ == "__main__":
    stage.run(stage.parser(__doc__).parse_args(), statistics)
