"""The zarr v3 layout, from the writing side. Legend: N pictures, S image size, L shard length.

    zarr.json                 classes, counts, repairs, versions; `fingerprint` once all is verified
    train/, val/
      images                  uint8 [N, S, S, 3], shards of [L, S, S, 3] with one picture an inner chunk
      labels                  int16 [N]
    statistics/
      mean                    float32 [S, S, 3]
      covariance, eigenvectors, eigenvalues   float64 [3, 3], [3, 3] (columns), [3] (descending)

Uncompressed, because that is what random reading wants; a CRC-32C behind every chunk and every index.
Shards are encoded here, picture after picture, so that a worker never holds a whole one; hierarchy.py has
zarr itself make all the rest.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

from preprocess.shared.files import write_json

ABSENT = 2**64 - 1  # in a shard's index: offset and length of a picture beyond the last
CRC_BYTES = 4

Buffer = bytes | memoryview


def shard_path(store: Path, split: str, shard: int) -> Path:
    """The file of a shard: the chunk key that zarr gives it."""
    return store / split / "images" / "c" / str(shard) / "0" / "0" / "0"


def encode_shard(images: Iterable[NDArray[np.uint8]], shard_length: int) -> Iterator[Buffer]:
    """The bytes of a shard, piece by piece: what zarr's sharding codec writes for the same pictures.

    Args:
        images: at most `shard_length` arrays uint8 [S, S, 3].
        shard_length: rows of the index; those beyond the last picture say that there is none.
    """
    index = np.full((shard_length, 2), ABSENT, dtype="<u8")
    offset = 0
    for slot, image in enumerate(images):
        index[slot] = offset, image.nbytes + CRC_BYTES
        offset += image.nbytes + CRC_BYTES
        yield from _with_crc(image.reshape(-1).data)  # no copy
    yield from _with_crc(index.tobytes())


def damaged_pictures(path: Path, pictures: int, image_size: int) -> list[int]:
    """Which pictures of a shard do not have the checksum that stands behind them."""
    length = image_size**2 * 3
    with path.open("rb") as file:
        sound = [_crc(file.read(length)) == file.read(CRC_BYTES) for _ in range(pictures)]
    return [slot for slot, good in enumerate(sound) if not good]


def set_attributes(store: Path, attributes: dict[str, Any], group: str = "") -> None:
    """Replace the attributes of the root or of a group."""
    write_json(
        store / group / "zarr.json", {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    )


def _with_crc(content: Buffer) -> tuple[Buffer, bytes]:
    return content, _crc(content)


def _crc(content: Buffer) -> bytes:
    return crc32c.crc32c(content).to_bytes(CRC_BYTES, "little")
