"""What is known of a finished shard: a small file beside it, written last."""

import json
from dataclasses import dataclass
from pathlib import Path

from preprocess.plan import Plan, pictures, record_path, shard_identity, sums_path
from preprocess.shards.layout import shard_path


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a finished shard."""

    identity: str  # of what it was made from
    pictures: int
    bytes: int
    sha256: str
    crc32c: str  # of the whole file: six times as fast to compare
    repairs: list[tuple[str, str]]  # picture's name, what was done


def finished(store: Path, plan: Plan, split: str, shard: int) -> Record | None:
    """The record of a shard, None if it must be made (again)."""
    try:
        record = Record(**json.loads(record_path(store, split, shard).read_text()))
        size = shard_path(store, split, shard).stat().st_size
    except (FileNotFoundError, ValueError, TypeError):  # there is none, or it is damaged itself
        return None
    identity = shard_identity(plan, pictures(store, split)[plan.span(split, shard)])
    sums = split != "train" or sums_path(store, shard).is_file()
    return record if sums and (record.identity, record.bytes) == (identity, size) else None
