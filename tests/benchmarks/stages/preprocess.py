"""JPEG bytes -> 256x256 pixels in a shard, one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import PIL

from preprocess import plan, shard
from tests.benchmarks.harness import Contender, Row, rate
from tests.benchmarks.pictures import command, sample
from tests.benchmarks.processes import process
from tests.benchmarks.settings import Settings
from tests.benchmarks.workers import decode


def rows(settings: Settings, scratch: Path) -> list[Row]:
    folder = sample(settings, scratch) / "train"
    files = decode.load(folder)
    make = whole_shard(folder.parent, scratch / "one-shard.zarr", len(files))
    plain = Contender(
        f"decode, bicubic resize and crop of the same bytes by Pillow {PIL.__version__}, nothing else",
        rate(len(files), lambda: [decode.decode(data) for data in files], settings.seconds),
    )
    ours = Contender(
        "preprocess.shard makes a whole shard: reads, converts, sums, checksums, writes, syncs",
        rate(len(files), make, settings.seconds),
    )
    peer = None
    if settings.pillow:
        # not resolved: an environment's Python is a link, and knows its packages by where the link lies
        python = str(settings.pillow.absolute())
        peer = Contender(
            "the limit's loop under plain Pillow", process(python, "-I", decode.__file__, str(folder))
        )
    return [Row(stage="preprocess", unit="img/s", ours=ours, peer=peer, limit=plain)]


def whole_shard(imagenet: Path, store: Path, pictures: int) -> Callable[[], object]:
    """A call makes the one shard of a store anew."""
    words = ("--imagenet", str(imagenet), "--store", str(store), "--shard-length", str(pictures))
    command("-m", "preprocess.index", *words)

    def make() -> shard.Record:
        plan.record_path(store, "train", 0).unlink(missing_ok=True)  # or it would count as made
        with mock.patch("preprocess.compute.report"):  # outside of a Dask worker nobody listens
            return shard.make(store, "train", 0)

    return make
