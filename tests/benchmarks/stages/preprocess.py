"""From a tar of JPEGs to verified shards by the stages' own commands; peer and limit only make pixels."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import time
import venv
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import PIL

from preprocess.errors import UserError
from tests.benchmarks.harness import Contender, Row
from tests.benchmarks.pictures import command, sample
from tests.benchmarks.processes import process
from tests.benchmarks.settings import Settings
from tests.benchmarks.workers import decode

FEW = 512  # images: a run on so many is mostly start-up
SHARD_LENGTH = 256  # images: many shards, so that two workers end at about the same time, as on ImageNet


def rows(settings: Settings, scratch: Path) -> list[Row]:
    folder = sample(settings, scratch) / "train"
    few = repeated(folder, scratch / "few.tar", FEW)
    many = repeated(folder, scratch / "many.tar", FEW + settings.repeated)
    limit = loop(f"decode, bicubic resize and crop by Pillow-SIMD {PIL.__version__}", sys.executable, folder)
    python = settings.pillow or plain_pillow(scratch / "pillow")
    # not resolved: an environment's Python is a link, and finds its packages by the link's folder
    peer = loop("the limit's loop under plain Pillow", str(python.absolute()), folder) if python else None
    runs = [WholeRuns(few, many, settings.repeated, workers, scratch / "made.zarr") for workers in (1, 2)]
    runs[0].seconds(few)  # not counted: compiles the loops
    one, two = (
        Contender(
            f"index, shards, statistics and verify with {run.workers} of Dask's workers, sums and checksums "
            f"included: {settings.repeated} more images, without start-up",
            run.pictures_per_second,
        )
        for run in runs
    )
    whole = Contender(
        f"the run on {FEW + settings.repeated} images, start-up included", runs[0].with_start_up
    )
    return [
        Row(stage="preprocess 1 worker", unit="img/s", ours=one, peer=peer, limit=limit),
        Row(stage="preprocess 1, all of it", unit="img/s", ours=whole, peer=peer, limit=limit),
        Row(stage="preprocess 2 beside 1", unit="img/s", ours=two, peer=one),
    ]


@dataclass
class WholeRuns:
    """Runs on few images and on many; the difference gives the time of an image, without the start-up."""

    few: Path
    many: Path
    more: int
    workers: int
    store: Path
    last: float = 0.0  # seconds of the latest run on many images, start-up included

    def seconds(self, archive: Path) -> float:
        """Time one run, from the tar to verified shards."""
        shutil.rmtree(self.store, ignore_errors=True)
        store, workers = ("--store", str(self.store)), ("--workers", str(self.workers))
        begin = time.perf_counter()
        lengths = ("--shard-length", str(SHARD_LENGTH), "--validation-fraction", "0.04")  # as in ImageNet
        command("-m", "preprocess.index", *store, "--imagenet", str(archive), *lengths)
        command("-m", "preprocess.shard", *store, *workers)
        command("-m", "preprocess.statistics", *store)
        command(
            "-m", "preprocess.verify", *store, *workers, "--unread"
        )  # stage 2 has just read all of them back
        return time.perf_counter() - begin

    def pictures_per_second(self) -> float:
        start = self.seconds(self.few)  # in each turn anew: the machine's speed changes
        self.last = self.seconds(self.many)
        if self.last <= start:
            raise UserError(
                "other work on this machine makes preprocess impossible to measure: try again later"
            )
        return self.more / (self.last - start)

    def with_start_up(self) -> float:
        """Images a second of the run that was just measured, start-up included."""
        return (FEW + self.more) / self.last


def loop(what: str, python: str, folder: Path) -> Contender:
    """Make a contender: one process that has the files in memory, decodes them, and does nothing else."""
    return Contender(f"{what}, nothing else", process(python, "-I", decode.__file__, str(folder)))


def plain_pillow(folder: Path) -> Path | None:
    """Make an environment with plain Pillow and return its Python; None if Pillow cannot be installed."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    try:
        command_of = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "pillow"]
        subprocess.run(command_of, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError):
        print("plain Pillow could not be installed: no peer for preprocess (--pillow PYTHON gives one)")
        return None
    return python


def repeated(folder: Path, archive: Path, count: int) -> Path:
    """Make a tar of `count` images from class folders; files are repeated under other names."""
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())
    if not files:
        raise UserError(f"{folder} contains no images")
    with tarfile.open(archive, "w") as tar:
        for number, path in enumerate(islice(cycle(files), count)):
            header = tarfile.TarInfo(f"train/{path.parent.name}/{number:06d}{path.suffix}")
            header.size = path.stat().st_size
            tar.addfile(header, io.BytesIO(path.read_bytes()))
    return archive
