"""Shards read back while others are made: whether the disk returns what was written.

Beside each one stands what the file system said of the file before it was read. While it says the same,
nobody has touched the file, and the store can be finished without reading it once more.
"""

import json
from contextlib import suppress
from pathlib import Path

from preprocess.plan import work_folder
from preprocess.shards.layout import shard_path
from preprocess.shards.records import Record
from preprocess.shared.files import crc32c_of, write_json

State = list[int]


class ReadBack:
    """What is known to have been read back, by whichever run; `save` lets later ones know."""

    def __init__(self, store: Path) -> None:
        self._store, self._path = store, work_folder(store) / "read-back.json"
        try:
            self._seen: dict[str, State] = dict(json.loads(self._path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # no run wrote it, or it is damaged itself
            self._seen = {}

    def read(self, split: str, shard: int, record: Record) -> bool:
        """Whether the shard's file holds what its record says. Raises OSError where it cannot be read."""
        state = self._state(split, shard)
        if crc32c_of(shard_path(self._store, split, shard)) != record.crc32c:
            return False
        self._seen[f"{split}/{shard}"] = state
        return True

    def unchanged(self, split: str, shard: int) -> bool:
        """Whether the shard was read back, and its file is the same since."""
        seen = self._seen.get(f"{split}/{shard}")
        return seen is not None and seen == self._state(split, shard)

    def save(self) -> None:
        """Write down what was read; where that cannot be, the disk being full, it will be read again."""
        with suppress(OSError):
            write_json(self._path, self._seen)

    def _state(self, split: str, shard: int) -> State:
        found = shard_path(self._store, split, shard).stat()
        return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
