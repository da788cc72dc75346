"""Lists of the images in archives: as many as ImageNet has, of a few bytes each."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.benchmarks.harness import Contender, Row
from tests.benchmarks.pictures import command
from tests.benchmarks.settings import Settings
from tests.benchmarks.stages.layouts import OFFICIAL, numbered
from tests.layouts import WRITERS

CLASSES = 1000
LISTED = (
    *("class folders, tar", "class folders, tgz", "class folders, zip"),
    *("Hugging Face, tar.gz", "Hugging Face, parquet", "WebDataset"),
)


def rows(settings: Settings, scratch: Path) -> list[Row]:
    known = [(f"n{image % CLASSES:08d}", b"%d" % image) for image in range(settings.members)]
    photos = list(numbered(known))

    def contender(layout: str) -> Contender:
        folder = scratch / "index" / layout
        (folder / "source").mkdir(parents=True)
        imagenet, store = WRITERS[layout](folder / "source", photos), folder / "made.zarr"

        def measure() -> float:
            shutil.rmtree(store, ignore_errors=True)
            begin = time.perf_counter()
            command("-m", "preprocess.index", "--imagenet", str(imagenet), "--store", str(store))
            return len(photos) / (time.perf_counter() - begin)

        return Contender(f"preprocess.index of {len(photos):,} images, {layout}", measure)

    official = contender(OFFICIAL)
    return [
        Row(stage=f"index: {layout}", unit="img/s", ours=contender(layout), peer=official)
        for layout in LISTED
    ]
