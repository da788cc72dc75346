"""Pictures out of shards that are not compressed: one read and one checksum each, in any thread.

Many are read in one call of _read.c, which leaves Python to other threads meanwhile; where that is not built,
or the processor has no instruction for the checksum, one after the other.

A shard is pictures [S, S, 3], each with its CRC-32C behind it, and at the end an index of where they lie with
its own (zarr v3's sharding codec). `store.py` alone calls this.
"""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

try:
    from preprocess.shards import _read
except ImportError:
    _read = None  # type: ignore[assignment]

CRC_BYTES = 4
ENDS_WITHIN, DIFFERS = 0, -1  # reasons beside errno's, as in _read.c
OPEN_SHARDS = 256  # files held open by a split; a process may commonly have 1,024
TOGETHER = 16  # pictures that a thread reads in one call, and so files that it holds open beside those

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

    def read_into(self, indices_B: NDArray[np.int64], pictures_BSS3: NDArray[np.uint8]) -> None:
        """Read pictures into a contiguous array, and verify each. Raises DamageError."""
        for first in range(0, len(indices_B), TOGETHER):
            some = slice(first, first + TOGETHER)
            self._read_some(indices_B[some], pictures_BSS3[some])

    def _read_some(self, indices_B: NDArray[np.int64], pictures_BSS3: NDArray[np.uint8]) -> None:
        places = [divmod(index, self._rows) for index in indices_B.tolist()]
        files = [self._file(shard) for shard, _ in places]  # open until all is read
        descriptors = np.array([file.descriptor for file in files], np.int64)
        offsets = np.array([self._begins[shard][slot] for shard, slot in places]).astype(np.int64)
        read = _read.pictures if _read else one_by_one
        failed = read(descriptors, offsets, pictures_BSS3)
        if failed:
            place, reason = failed
            index, path = indices_B[place], files[place].path
            if reason == DIFFERS:
                raise DamageError(f"picture {index} in shard {path} does not match its checksum")
            if reason == ENDS_WITHIN:
                raise DamageError(f"shard {path} ends within picture {index}")
            raise DamageError(f"shard {path} cannot be read ({os.strerror(reason)})")

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


def one_by_one(
    descriptors: NDArray[np.int64], offsets: NDArray[np.int64], pictures: NDArray[np.uint8]
) -> tuple[int, int] | None:
    """As `_read.pictures`."""
    for place, picture in enumerate(pictures):
        crc = bytearray(CRC_BYTES)
        try:
            found = os.preadv(int(descriptors[place]), [picture.data, crc], int(offsets[place]))
        except OSError as error:
            return place, error.errno or errno.EIO
        if found != picture.nbytes + CRC_BYTES:
            return place, ENDS_WITHIN
        if crc32c.crc32c(picture.data) != int.from_bytes(crc, "little"):
            return place, DIFFERS
    return None


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
