"""Pictures out of shards that are not compressed: one read and one checksum each, in any thread.

A shard is pictures [S, S, 3], each with its CRC-32C behind it, and at the end an index of where they lie with
its own (zarr v3's sharding codec). `store.py` alone calls this.
"""

import os
import threading
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

CRC_BYTES = 4
OPEN_SHARDS = 256  # files held open by a split; a process may commonly have 1,024

# Codecs of the two pieces, by name: what this reader understands.
PICTURE_CODECS, INDEX_CODECS = ["bytes", "crc32c"], ["bytes", "crc32c"]


class DamageError(Exception):
    """What is wrong with which shard, as the beginning of a sentence."""


class ShardReader:
    """The pictures of one zarr array, uint8 [N, S, S, 3], one picture an inner chunk."""

    def __init__(self, array: Path, metadata: dict[str, Any]) -> None:
        self._array = array
        self._rows: int = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        self._side: int = metadata["shape"][1]
        self._bytes = self._side**2 * 3
        self._begins: dict[int, NDArray[np.uint64]] = {}  # 8 bytes a picture: 10 MB for ImageNet
        self._files: dict[int, _File] = {}
        self._opening = threading.Lock()

    @staticmethod
    def understands(metadata: dict[str, Any]) -> bool:
        """Whether an array's `zarr.json` says that its pictures lie there as they are."""
        if [codec["name"] for codec in metadata["codecs"]] != ["sharding_indexed"]:
            return False
        inner = metadata["codecs"][0]["configuration"]
        return (
            [codec["name"] for codec in inner["codecs"]] == PICTURE_CODECS
            and [codec["name"] for codec in inner["index_codecs"]] == INDEX_CODECS
            and inner.get("index_location", "end") == "end"
            and inner["chunk_shape"][0] == 1
        )

    def read_into(self, index: int, picture_SS3: NDArray[np.uint8]) -> None:
        """Read picture `index` into a contiguous array, and verify it. Raises DamageError."""
        shard, slot = divmod(index, self._rows)
        file = self._file(shard)
        crc = bytearray(CRC_BYTES)
        wanted = self._bytes + CRC_BYTES
        try:
            found = os.preadv(file.descriptor, [picture_SS3.data, crc], int(self._begins[shard][slot]))
        except OSError as error:
            raise DamageError(f"shard {file.path} cannot be read ({error.strerror})") from None
        if found != wanted:
            raise DamageError(f"shard {file.path} ends within picture {index}")
        if crc32c.crc32c(picture_SS3.data) != int.from_bytes(crc, "little"):
            raise DamageError(f"picture {index} in shard {file.path} does not match its checksum")

    def _file(self, shard: int) -> "_File":
        """A shard, open, its index known; the one that was opened first is put aside for it."""
        if file := self._files.get(shard):
            return file
        file = _File(self._array / "c" / str(shard) / "0" / "0" / "0")
        with self._opening:
            if shard not in self._begins:
                self._begins[shard] = self._index(file)
            while len(self._files) >= OPEN_SHARDS:
                del self._files[next(iter(self._files))]
            self._files[shard] = file
        return file

    def _index(self, file: "_File") -> NDArray[np.uint64]:
        """Where each picture of a shard begins; those beyond the last one are never asked for."""
        entries = np.empty((self._rows, 2), "<u8")
        crc = bytearray(CRC_BYTES)
        os.preadv(file.descriptor, [entries.data, crc], max(0, file.size - entries.nbytes - CRC_BYTES))
        if crc32c.crc32c(entries.data) != int.from_bytes(crc, "little"):
            raise DamageError(f"the index of shard {file.path} does not match its checksum")
        begins = entries[:, 0].astype(np.uint64)
        begins[entries[:, 1] != self._bytes + CRC_BYTES] = file.size  # absent: reading there finds nothing
        return begins


class _File:
    """An open file, closed when nobody holds it any more: a thread may still read what others put aside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
            self.size = os.fstat(self.descriptor).st_size
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            state = "is missing" if missing else f"cannot be opened ({error.strerror})"
            raise DamageError(f"shard {path} {state}") from None

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
