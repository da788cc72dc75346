"""Each layout of ImageNet compared with the official tars: one worker makes shards from the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle, islice
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
    photos = list(numbered(islice(cycle(known), PASSES * len(known))))

    def contender(layout: str) -> Contender:
        folder = scratch / "layouts" / layout
        (folder / "source").mkdir(parents=True)
        imagenet, store = WRITERS[layout](folder / "source", photos), folder / "made.zarr"
        lengths = ("--shard-length", str(SHARD_LENGTH))
        command("-m", "preprocess.index", "--imagenet", str(imagenet), "--store", str(store), *lengths)
        return Contender(f"shards from {layout}, one worker", worker("shards", store))

    official = contender(OFFICIAL)
    return [
        Row(stage=layout, unit="img/s", ours=contender(layout), peer=official)
        for layout in WRITERS
        if layout != OFFICIAL
    ]


def numbered(known: Iterable[tuple[str, bytes]]) -> Iterator[Photo]:
    """Number the images in each part; one of 25 is for validation, as in ImageNet."""
    count = {"train": 0, "val": 0}
    for number, (wnid, data) in enumerate(known):
        part = "val" if number % 25 == 24 else "train"
        count[part] += 1
        yield Photo(part, wnid, count[part], data)
