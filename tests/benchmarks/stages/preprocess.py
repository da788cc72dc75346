"""A tar of JPEGs -> verified shards, by the stages' own commands, beside loops that only make pixels."""

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

FEW = 512  # pictures: a run on so many is mostly start-up
SHARD_LENGTH = 256  # pictures: enough shards for two workers to end together, as they do on ImageNet


def rows(settings: Settings, scratch: Path) -> list[Row]:
    folder = sample(settings, scratch) / "train"
    few = repeated(folder, scratch / "few.tar", FEW)
    many = repeated(folder, scratch / "many.tar", FEW + settings.repeated)
    limit = loop(f"decode, bicubic resize and crop by Pillow-SIMD {PIL.__version__}", sys.executable, folder)
    python = settings.pillow or plain_pillow(scratch / "pillow")
    # not resolved: an environment's Python is a link, and knows its packages by where the link lies
    peer = loop("the limit's loop under plain Pillow", str(python.absolute()), folder) if python else None
    runs = [WholeRuns(few, many, settings.repeated, workers, scratch / "made.zarr") for workers in (1, 2)]
    runs[0].seconds(few)  # not counted: compiles
    one, two = (
        Contender(
            f"index, shards, statistics and verify with {run.workers} of Dask's workers, sums and checksums "
            f"included: {settings.repeated} pictures more, start-up apart",
            run.pictures_per_second,
        )
        for run in runs
    )
    whole = Contender(
        f"the run on {FEW + settings.repeated} pictures, start-up included", runs[0].with_start_up
    )
    return [
        Row(stage="preprocess 1 worker", unit="img/s", ours=one, peer=peer, limit=limit),
        Row(stage="preprocess 1, all of it", unit="img/s", ours=whole, peer=peer, limit=limit),
        Row(stage="preprocess 2 beside 1", unit="img/s", ours=two, peer=one),
    ]


@dataclass
class WholeRuns:
    """Runs on few pictures and on many; the difference is what a picture takes, however short the bench."""

    few: Path
    many: Path
    more: int
    workers: int
    store: Path
    last: float = 0.0  # seconds that many took, start-up included

    def seconds(self, archive: Path) -> float:
        """From the tar to verified shards."""
        shutil.rmtree(self.store, ignore_errors=True)
        store, workers = ("--store", str(self.store)), ("--workers", str(self.workers))
        begin = time.perf_counter()
        lengths = ("--shard-length", str(SHARD_LENGTH), "--validation-fraction", "0.04")  # as in ImageNet
        command("-m", "preprocess.index", *store, "--imagenet", str(archive), *lengths)
        command("-m", "preprocess.shard", *store, *workers)
        command("-m", "preprocess.statistics", *store)
        command("-m", "preprocess.verify", *store, *workers, "--unread")  # all was read back just now
        return time.perf_counter() - begin

    def pictures_per_second(self) -> float:
        start = self.seconds(self.few)  # at the machine's speed of now, not at its best one
        self.last = self.seconds(self.many)
        if self.last <= start:
            raise UserError(
                "other work on this machine leaves preprocess nothing to measure: try again later"
            )
        return self.more / (self.last - start)

    def with_start_up(self) -> float:
        """Of the run that was just measured."""
        return (FEW + self.more) / self.last


def loop(what: str, python: str, folder: Path) -> Contender:
    """One process that has the bytes in memory and does nothing else."""
    return Contender(f"{what}, nothing else", process(python, "-I", decode.__file__, str(folder)))


def plain_pillow(folder: Path) -> Path | None:
    """A Python with plain Pillow in an environment of its own; None where it cannot be had."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    try:
        command_of = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "pillow"]
        subprocess.run(command_of, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError):
        print("plain Pillow could not be installed: no peer for preprocess (--pillow PYTHON names one)")
        return None
    return python


def repeated(folder: Path, archive: Path, count: int) -> Path:
    """A tar with so many pictures of class folders, the same ones again and again under other names."""
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())
    if not files:
        raise UserError(f"{folder} holds no pictures")
    with tarfile.open(archive, "w") as tar:
        for number, path in enumerate(islice(cycle(files), count)):
            header = tarfile.TarInfo(f"train/{path.parent.name}/{number:06d}{path.suffix}")
            header.size = path.stat().st_size
            tar.addfile(header, io.BytesIO(path.read_bytes()))
    return archive
