"""Each layout of ImageNet compared with the official tars: one worker makes shards from the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.harness import Contender, Row
from tests.benchmarks.pictures import command, sample
from tests.benchmarks.processes import worker
from tests.benchmarks.settings import Settings
from tests.layouts import WRITERS, Photo

PASSES = 8  # so many times each JPEG is in a layout
SHARD_LENGTH = 256  # images
OFFICIAL = "official tars"


def rows(settings: Settings, scratch: Path) -> list[Row]:
    files = sorted(path for path in sample(settings, scratch).glob("train/*/*") if path.is_file())
    known = [(path.parent.name, path.read_bytes()) for path in files]
    photos = list(numbered(PASSES * known))

    def contender(layout: str) -> Contender:
        folder = scratch / "layouts" / layout
        (folder / "source").mkdir(parents=True)
        imagenet, store = WRITERS[layout](folder / "source", photos), folder / "made.zarr"
        lengths = ("--shard-length", str(SHARD_LENGTH))
        command("-m", "preprocess.index", "--imagenet", str(imagenet), "--store", str(store), *lengths)
        return Contender(f"shards from {layout}, one worker", worker("shards", store))

    official = contender(OFFICIAL)
    return [
        Row(stage=f"layouts: {layout}", unit="img/s", ours=contender(layout), peer=official)
        for layout in WRITERS
        if layout != OFFICIAL
    ]


def numbered(known: Sequence[tuple[str, bytes]]) -> Iterator[Photo]:
    """Number the images in each part; the last ones, one of 25, are for validation, as in ImageNet."""
    training = len(known) - len(known) // 25
    for number, (wnid, data) in enumerate(known):
        part, before = ("train", 0) if number < training else ("val", training)
        yield Photo(part, wnid, number - before + 1, data)
