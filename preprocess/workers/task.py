"""The task of a worker: make one whole shard, from the images in the source to the shard's record."""

import functools
import gc
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from preprocess.containers.fetch import fetch
from preprocess.errors import UnreadableError
from preprocess.pictures.images import square
from preprocess.plan import Plan, load_plan, load_table, record_path, shard_identity, sums_path
from preprocess.shards.layout import encode_shard, shard_path
from preprocess.shards.records import Record, Sides, finished_record
from preprocess.shards.writing import write_large
from preprocess.shared.files import write_atomically, write_json
from preprocess.workers import compute

if TYPE_CHECKING:
    from preprocess.shards.sums import Sums

REPORT_EVERY = 0.5  # seconds between two reports of progress


class UnreadableImagesError(Exception):
    """A shard could not be made; `args` are its unreadable images: pairs of a name and a reason."""


def make_shard(store: Path, split: str, shard: int) -> Record:
    """Make a shard, unless it is finished; return its record.

    Raises:
        UnreadableImagesError: some of its images cannot be read; the shard was not written.
        OSError: the disk is full, or the source is gone.
    """
    from preprocess.shards.sums import Sums  # imports Numba, which is slow and which only workers need

    plan = load_plan(store)
    if made := finished_record(store, plan, split, shard):
        return made
    _freeze_imported_objects()
    rows = load_table(store, split)[plan.span(split, shard)]
    sums = Sums(plan.image_size)
    repairs: list[tuple[str, str]] = []
    shorter: list[int] = []
    images = _images(store, plan, rows, repairs, shorter)
    summed = _add_to(sums, images) if split == "train" else images
    written = write_large(shard_path(store, split, shard), encode_shard(summed, plan.shard_length))
    if split == "train":
        write_atomically(sums_path(store, shard), sums.to_bytes())
    identity = shard_identity(plan, rows)
    sides = Sides.of(shorter)
    record = Record(identity, len(rows), written.bytes, written.sha256, written.crc32c, repairs, sides)
    write_json(record_path(store, split, shard), asdict(record))
    return record


@functools.cache
def _freeze_imported_objects() -> None:
    """Once a process: take the imported modules' objects out of garbage collection, which would scan them."""
    gc.collect()
    gc.freeze()


def _images(
    store: Path, plan: Plan, rows: NDArray[np.void], repairs: list[tuple[str, str]], shorter: list[int]
) -> Iterator[NDArray[np.uint8]]:
    """Read and convert the images of a shard, uint8 [S, S, 3].

    Their repairs are added to `repairs`, their shorter sides in pixels to `shorter`.

    Raises:
        UnreadableImagesError: at the end, for all unreadable images together.
    """
    unreadable: list[tuple[str, str]] = []
    reported = time.monotonic()
    for done, requested in enumerate(fetch(store, plan, rows), start=1):
        try:
            made = square(requested.read(), requested.name, plan.image_size, plan.draft, plan.upright)
            repairs += [(requested.name, repair) for repair in made.repairs]
            shorter.append(made.shorter)
            if not unreadable:
                yield made.pixels
        except UnreadableError as error:
            unreadable.append((requested.name, str(error)))
        if done == len(rows) or time.monotonic() > reported + REPORT_EVERY:
            compute.report(done)
            reported = time.monotonic()
    if unreadable:
        raise UnreadableImagesError(*unreadable)


def _add_to(sums: "Sums", images: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images, each added to `sums`."""
    for image in images:
        sums.add(image)
        yield image
