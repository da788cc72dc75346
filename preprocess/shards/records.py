"""Records of finished shards. A shard's record is written last, so it marks the shard as finished."""

from dataclasses import dataclass
from pathlib import Path

from preprocess.plan import Plan, load_table, record_path, shard_identity, sums_path
from preprocess.shards.layout import shard_path
from preprocess.shared import json_files


@dataclass(frozen=True, slots=True)
class Record:
    """A finished shard. The fields are the keys of its JSON file."""

    identity: str  # plan.shard_identity
    pictures: int  # number of images
    bytes: int  # length of the file
    sha256: str  # of the file, hexadecimal
    crc32c: str  # of the file, hexadecimal: six times as fast to compare
    repairs: list[tuple[str, str]]  # image's name, repair


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
