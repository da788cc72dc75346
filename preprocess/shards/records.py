"""Records of finished shards. A shard's record is written last, so it marks the shard as finished."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.plan import Plan, load_table, record_path, shard_identity, sums_path
from preprocess.shards.layout import shard_path
from preprocess.shared import json_files

SIDES = (32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096)  # where the bins begin, after 0; pixels


@dataclass(frozen=True, slots=True)
class Sides:
    """The shorter sides of the images of a shard, in pixels, before they were resized."""

    least: int
    most: int
    counts: list[int]  # by bin: below SIDES[0], from SIDES[0] on, ..., from SIDES[-1] on

    @staticmethod
    def of(shorter: Sequence[int]) -> "Sides":
        """The summary of these sides, one or more."""
        counts = np.bincount(np.searchsorted(SIDES, shorter, "right"), minlength=len(SIDES) + 1)
        return Sides(min(shorter), max(shorter), counts.tolist())


@dataclass(frozen=True, slots=True)
class Record:
    """A finished shard. The fields are the keys of its JSON file."""

    identity: str  # plan.shard_identity
    pictures: int  # number of images
    bytes: int  # length of the file
    sha256: str  # of the file, hexadecimal
    crc32c: str  # of the file, hexadecimal: six times as fast to compare
    repairs: list[tuple[str, str]]  # image's name, repair
    sides: Sides | None = None  # of the original images; None in stores from before they were kept


def finished_record(store: Path, plan: Plan, split: str, shard: int) -> Record | None:
    """The record of a finished shard, None where the shard must be made (again)."""
    try:
        record = json_files.read(record_path(store, split, shard), Record)
        size = shard_path(store, split, shard).stat().st_size
    except (json_files.JsonError, FileNotFoundError):
        return None
    identity = shard_identity(plan, load_table(store, split)[plan.span(split, shard)])
    sums = split != "train" or sums_path(store, shard).is_file()
    return record if sums and (record.identity, record.bytes) == (identity, size) else None
