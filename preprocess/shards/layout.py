"""The store's zarr v3 layout. Legend: N images, S image size in pixels, L shard length in images.

    zarr.json                 classes, counts, repairs, versions; `fingerprint` once the store is verified
    train/, val/
      images                  uint8 [N, S, S, 3], shards of [L, S, S, 3], one image an inner chunk
      labels                  int16 [N]
    statistics/
      mean                    float32 [S, S, 3]
      covariance, eigenvectors, eigenvalues   float64 [3, 3], [3, 3] (columns), [3] (descending)

Chunks are uncompressed, which makes random reads fast. A CRC-32C follows every chunk and every shard's index.
Shards are encoded here, image after image, so that a worker never holds a whole shard. All other files are
made by zarr itself (hierarchy.py, which has the names of the dimensions).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
from numpy.typing import NDArray

from preprocess.shared.files import write_json

ABSENT = 2**64 - 1  # in a shard's index: offset and length of an image beyond the last
CRC_BYTES = 4

Buffer = bytes | memoryview


def shard_path(store: Path, split: str, shard: int) -> Path:
    """The file of a shard of a store."""
    return chunk_path(store / split / "images", shard)


def chunk_path(array: Path, shard: int) -> Path:
    """The file of a shard of a zarr array [N, S, S, 3]: its default chunk key."""
    return array / "c" / str(shard) / "0" / "0" / "0"


def encode_shard(images: Iterable[NDArray[np.uint8]], shard_length: int) -> Iterator[Buffer]:
    """Yield the bytes of a shard in pieces, as zarr's sharding codec writes them.

    Args:
        images: at most `shard_length` arrays uint8 [S, S, 3].
        shard_length: rows of the index; rows beyond the last image are ABSENT.
    """
    index = np.full((shard_length, 2), ABSENT, dtype="<u8")
    offset = 0
    for slot, image in enumerate(images):
        index[slot] = offset, image.nbytes + CRC_BYTES
        offset += image.nbytes + CRC_BYTES
        yield from _with_crc(image.reshape(-1).data)  # no copy
    yield from _with_crc(index.tobytes())


def damaged_images(path: Path, images: int, image_size: int) -> list[int]:
    """The places, from 0, of a shard's images that do not match their checksums. Raises OSError."""
    length = image_size**2 * 3
    with path.open("rb") as file:
        sound = [_crc(file.read(length)) == file.read(CRC_BYTES) for _ in range(images)]
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
