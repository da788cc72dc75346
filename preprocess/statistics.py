"""Stage 3: the mean image of the training set, and the principal components of its pixels' colours.

Adds up the integer sums of all shards and divides once, so that any number of workers gives the same bytes.

Usage: python -m preprocess.statistics --store PATH
"""

import argparse
import zlib
from fractions import Fraction
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from preprocess import stage
from preprocess.errors import UserError
from preprocess.plan import load_plan, manifest, repair, sums_path
from preprocess.shards import hierarchy
from preprocess.shared.files import write_json
from preprocess.shared.program import words


def mean_image(count: int, position: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Sums at each position, uint64 [S, S, 3] -> mean image, float32 [S, S, 3], 0..255."""
    return (position / count).astype(np.float32)


def covariance(count: int, position: NDArray[np.uint64], product: NDArray[np.int64]) -> NDArray[np.float64]:
    """Covariance of the colours of all n pixels, float64 [3, 3], for channels of 0..255.

    (n * sum xy - sum x * sum y) / n**2 in exact integers, rounded once at the end.

    Args:
        count: number of images.
        position: uint64 [S, S, 3], sums at each position.
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

    The sign of an eigenvector is arbitrary: here its component of largest magnitude is positive.
    """
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, range(3)])


def statistics(arguments: argparse.Namespace) -> str:
    """Add up the sums of all training shards and write the group `statistics`; return a summary.

    Raises:
        UserError: the sums of a shard are missing.
    """
    store: Path = arguments.store
    plan = load_plan(store)
    if not plan.counts["train"]:
        write_json(manifest(store, "statistics"), {"identity": plan.identity, "pictures": 0})
        return "no training part, so no mean image: a network that is evaluated has its own"
    count, product = 0, np.zeros((3, 3), dtype=np.int64)
    position = np.zeros((plan.image_size, plan.image_size, 3), dtype=np.uint64)
    for shard in range(plan.shards("train")):
        path = sums_path(store, shard)
        try:
            with np.load(path) as sums:
                count += int(sums["count"])
                position += sums["position"]
                product += sums["product"]
        except FileNotFoundError:
            raise UserError(f"{path} is missing: {repair(store)}") from None
        except (BadZipFile, EOFError, KeyError, TypeError, ValueError, zlib.error):
            path.unlink()  # verify then has the shard made again
            raise UserError(f"{path} is damaged: {repair(store)}") from None
    assert count == plan.counts["train"]
    matrix = covariance(count, position, product)
    values, vectors = eigenbasis(matrix)
    arrays = {"covariance": matrix, "eigenvalues": values, "eigenvectors": vectors}
    hierarchy.write_statistics(store, {"mean": mean_image(count, position), **arrays})
    write_json(manifest(store, "statistics"), {"identity": plan.identity, "pictures": count})
    deviations = " ".join(f"{value:.1f}" for value in np.sqrt(np.maximum(values, 0)))
    return f"mean image and principal components of {count} images; standard deviations {deviations}"


if __name__ == "__main__":
    stage.run(stage.parser(__doc__).parse_args(words()), statistics)
