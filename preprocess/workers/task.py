"""What a worker does: one whole shard, from the pictures where they lie to the record that it is made."""

import functools
import gc
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from preprocess.pictures.fetch import fetch
from preprocess.pictures.images import UnreadableError, convert
from preprocess.plan import Plan, load, pictures, record_path, shard_identity, sums_path
from preprocess.shards.layout import encode_shard, shard_path
from preprocess.shards.records import Record, finished
from preprocess.shards.writing import write_large
from preprocess.shared.files import write_atomically, write_json
from preprocess.workers import compute

if TYPE_CHECKING:
    from preprocess.shards.sums import Sums

REPORT_EVERY = 0.5  # seconds


class UnreadablePicturesError(Exception):
    """The pictures, with reasons, for which a shard could not be made."""


def make(store: Path, split: str, shard: int) -> Record:
    """The task: make a shard if it is not made.

    Raises:
        UnreadablePicturesError: some of its pictures cannot be read; the shard was not written.
        OSError: the disk is full, the source is gone.
    """
    from preprocess.shards.sums import Sums  # with its compiler slow to import, and only workers need it

    plan = load(store)
    if made := finished(store, plan, split, shard):
        return made
    _keep_what_was_imported()
    rows = pictures(store, split)[plan.span(split, shard)]
    sums = Sums(plan.image_size)
    repairs: list[tuple[str, str]] = []
    images = _images(plan, rows, repairs)
    counted = _counted(images, sums) if split == "train" else images
    written = write_large(shard_path(store, split, shard), encode_shard(counted, plan.shard_length))
    if split == "train":
        write_atomically(sums_path(store, shard), sums.pack())
    identity = shard_identity(plan, rows)
    record = Record(identity, len(rows), written.bytes, written.sha256, written.crc32c, repairs)
    write_json(record_path(store, split, shard), asdict(record))
    return record


@functools.cache
def _keep_what_was_imported() -> None:
    """Once a process: the collector need not look through all modules again and again."""
    gc.collect()
    gc.freeze()


def _images(
    plan: Plan, rows: NDArray[np.void], repairs: list[tuple[str, str]]
) -> Iterator[NDArray[np.uint8]]:
    """Read and convert picture after picture; raise for all unreadable ones together, at the end."""
    unreadable: list[tuple[str, str]] = []
    reported = time.monotonic()
    for done, picture in enumerate(fetch(plan, rows), start=1):
        try:
            image, named = convert(picture.read(), picture.name, plan.image_size, plan.draft)
            repairs += [(picture.name, repair) for repair in named]
            if not unreadable:
                yield image
        except UnreadableError as error:
            unreadable.append((picture.name, str(error)))
        if done == len(rows) or time.monotonic() > reported + REPORT_EVERY:
            compute.report(done)
            reported = time.monotonic()
    if unreadable:
        raise UnreadablePicturesError(*unreadable)


def _counted(images: Iterator[NDArray[np.uint8]], sums: "Sums") -> Iterator[NDArray[np.uint8]]:
    for image in images:
        sums.add(image)
        yield image
