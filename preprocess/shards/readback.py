"""Reads shards back while others are made, and remembers which files were read.

The file's state (inode, size, times) is kept with each shard. While the state stays the same, the file is
unchanged, and stage 4 need not read it again.
"""

from contextlib import suppress
from pathlib import Path

from preprocess.plan import work_folder
from preprocess.shards.checksums import crc32c_of
from preprocess.shards.layout import shard_path
from preprocess.shards.records import Record
from preprocess.shared import json_files
from preprocess.shared.files import write_json

State = list[int]


class ReadBack:
    """The shards of a store that were read back, in this run or an earlier one."""

    def __init__(self, store: Path) -> None:
        self._store, self._path = store, work_folder(store) / "read-back.json"
        try:
            self._seen = json_files.read(self._path, dict[str, State])
        except json_files.JsonError:  # there is no such file, or it is damaged
            self._seen = {}

    def read(self, split: str, shard: int, record: Record) -> bool:
        """Read a shard; return whether it matches its record. Raises OSError where it cannot be read."""
        state = self._state(split, shard)
        if crc32c_of(shard_path(self._store, split, shard)) != record.crc32c:
            return False
        self._seen[f"{split}/{shard}"] = state
        return True

    def unchanged(self, split: str, shard: int) -> bool:
        """Whether the shard was read back and its file is unchanged since."""
        seen = self._seen.get(f"{split}/{shard}")
        return seen is not None and seen == self._state(split, shard)

    def save(self) -> None:
        """Keep the list for later runs. On a full disk it is dropped, and the shards are read again."""
        with suppress(OSError):
            write_json(self._path, self._seen)

    def _state(self, split: str, shard: int) -> State:
        found = shard_path(self._store, split, shard).stat()
        return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
