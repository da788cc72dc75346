"""Reads images from uncompressed shards: one read and one checksum an image, thread-safe.

One call of _read.c reads many images without the GIL. Where _read.c is not built, or the processor has no
CRC-32C instruction, Python reads them one after the other.

A shard is a row of images [S, S, 3], each followed by its CRC-32C, and at the end an index of their offsets,
followed by its own CRC-32C (zarr v3's sharding codec). Only `store.py` calls this module.
"""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

from preprocess.shards.layout import CRC_BYTES, chunk_path

try:
    from preprocess.shards import _read
except ImportError:
    _read = None  # type: ignore[assignment]

ENDS_WITHIN, DIFFERS = 0, -1  # reasons of a failure besides errno's, as in _read.c
OPEN_SHARDS = 256  # files that a split holds open; the usual limit of a process is 1,024
BATCH = 16  # images that a thread reads in one call, from at most as many further open files

# The codecs of images and index that this reader supports.
IMAGE_CODECS, INDEX_CODECS = ["bytes", "crc32c"], ["bytes", "crc32c"]


class DamageError(Exception):
    """A shard is damaged; the message is the beginning of a sentence."""


class ShardReader:
    """The images of one zarr array, uint8 [N, S, S, 3], one image an inner chunk."""

    def __init__(self, array: Path, metadata: dict[str, Any]) -> None:
        self._array, self._metadata = array, metadata
        self._rows: int = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        self._side: int = metadata["shape"][1]
        self._bytes = self._side**2 * 3
        self._offsets: dict[int, NDArray[np.uint64]] = {}  # 8 bytes an image: 10 MB for ImageNet
        self._files: dict[int, _File] = {}
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[type["ShardReader"], tuple[Path, dict[str, Any]]]:
        return ShardReader, (self._array.absolute(), self._metadata)  # open files stay with their process

    @staticmethod
    def supports(metadata: dict[str, Any]) -> bool:
        """Whether the array with this `zarr.json`, which is valid, has uncompressed images in shards."""
        codecs = metadata["codecs"]
        if _names(codecs) != ["sharding_indexed"]:
            return False
        inner, side = codecs[0]["configuration"], metadata["shape"][1:]
        return (
            _names(inner.get("codecs")) == IMAGE_CODECS
            and _names(inner.get("index_codecs")) == INDEX_CODECS
            and inner.get("index_location", "end") == "end"
            and inner["chunk_shape"] == [1, *side]
            and metadata["chunk_grid"]["configuration"]["chunk_shape"][1:] == side
        )

    def read_into(self, indices_B: NDArray[np.int64], images_BSS3: NDArray[np.uint8]) -> None:
        """Read images into a contiguous array, and compare each with its checksum. Raises DamageError."""
        for first in range(0, len(indices_B), BATCH):
            some = slice(first, first + BATCH)
            self._read_some(indices_B[some], images_BSS3[some])

    def _read_some(self, indices_B: NDArray[np.int64], images_BSS3: NDArray[np.uint8]) -> None:
        places = [divmod(index, self._rows) for index in indices_B.tolist()]
        files = [self._file(shard) for shard, _ in places]  # they stay open until all images are read
        descriptors = np.array([file.descriptor for file in files], np.int64)
        offsets = np.array([self._offsets[shard][slot] for shard, slot in places]).astype(np.int64)
        read = _read.images if _read else read_one_by_one
        failed = read(descriptors, offsets, images_BSS3)
        if failed:
            place, reason = failed
            index, path = indices_B[place], files[place].path
            if reason == DIFFERS:
                raise DamageError(f"image {index} in shard {path} does not match its checksum")
            if reason == ENDS_WITHIN:
                raise DamageError(f"shard {path} ends within image {index}")
            raise DamageError(f"shard {path} cannot be read ({os.strerror(reason)})")

    def _file(self, shard: int) -> "_File":
        """The open file of a shard, its index read. Beyond OPEN_SHARDS the file opened first is dropped."""
        if file := self._files.get(shard):
            return file
        file = _File(chunk_path(self._array, shard))
        with self._opening:
            if shard not in self._offsets:
                self._offsets[shard] = self._index(file)
            while len(self._files) >= OPEN_SHARDS:
                del self._files[next(iter(self._files))]
            self._files[shard] = file
        return file

    def _index(self, file: "_File") -> NDArray[np.uint64]:
        """The offset of each image of a shard, uint64 [L]."""
        length = 16 * self._rows  # bytes: the offset and the length of each image
        found = os.pread(file.descriptor, length + CRC_BYTES, max(0, file.size - length - CRC_BYTES))
        if len(found) < length + CRC_BYTES or not _intact(found):
            raise DamageError(f"the index of shard {file.path} does not match its checksum")
        entries = np.frombuffer(found[:length], "<u8").reshape(self._rows, 2)
        offsets = entries[:, 0].astype(np.uint64)
        offsets[entries[:, 1] != self._bytes + CRC_BYTES] = file.size  # absent: a read there finds nothing
        return offsets


def read_one_by_one(
    descriptors: NDArray[np.int64], offsets: NDArray[np.int64], images: NDArray[np.uint8]
) -> tuple[int, int] | None:
    """The same as `_read.images`, in Python."""
    for place, image in enumerate(images):
        try:
            found = os.pread(int(descriptors[place]), image.nbytes + CRC_BYTES, int(offsets[place]))
        except OSError as error:
            return place, error.errno or errno.EIO
        if len(found) != image.nbytes + CRC_BYTES:
            return place, ENDS_WITHIN
        if not _intact(found):
            return place, DIFFERS
        image.data.cast("B")[:] = found[:-CRC_BYTES]
    return None


def _intact(data: bytes) -> bool:
    """Whether the last CRC_BYTES are the checksum of the bytes before them."""
    return crc32c.crc32c(data[:-CRC_BYTES]) == int.from_bytes(data[-CRC_BYTES:], "little")


def _names(codecs: list[dict[str, Any]] | None) -> list[str]:
    return [codec["name"] for codec in codecs or []]


class _File:
    """An open file, closed with its last reference: one thread may read it while another drops it."""

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
