"""The zarr v3 layout, from the writing side. Legend: N pictures, S image size, L shard length.

    zarr.json                 classes, counts, repairs, versions; `fingerprint` once all is verified
    train/, val/
      images                  uint8 [N, S, S, 3], shards of [L, S, S, 3] with one picture an inner chunk
      labels                  int16 [N]
    statistics/
      mean                    float32 [S, S, 3]
      covariance, eigenvectors, eigenvalues   float64 [3, 3], [3, 3] (columns), [3] (descending)

Uncompressed, because that is what random reading wants; a CRC-32C behind every chunk and every index.
zarr makes every file in memory, and each goes to the disk whole or not at all. Only shards are encoded
here: picture after picture, so that a worker never holds a whole shard.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from preprocess.files import write_atomically, write_json
from preprocess.plan import SPLITS, Plan

ABSENT = 2**64 - 1  # in a shard's index: offset and length of a picture beyond the last
CRC_BYTES = 4


def shard_path(store: Path, split: str, shard: int) -> Path:
    """The file of a shard: the chunk key that zarr gives it."""
    return store / split / "images" / "c" / str(shard) / "0" / "0" / "0"


def encode_shard(images: Iterable[NDArray[np.uint8]], shard_length: int) -> Iterator[bytes]:
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
        yield from _with_crc(image)
    yield from _with_crc(index)


def damaged_pictures(path: Path, pictures: int, image_size: int) -> list[int]:
    """Which pictures of a shard do not have the checksum that stands behind them."""
    length = image_size**2 * 3
    with path.open("rb") as file:
        sound = [_crc(file.read(length)) == file.read(CRC_BYTES) for _ in range(pictures)]
    return [slot for slot, good in enumerate(sound) if not good]


def create(store: Path, plan: Plan, labels: dict[str, NDArray[np.int16]]) -> None:
    """Write everything but shards and statistics, the root last; a store that has its root is left alone."""
    if (store / "zarr.json").exists():
        return
    memory = MemoryStore()
    zarr.create_group(memory)
    side = plan.image_size
    for split in SPLITS:
        group = zarr.create_group(memory, path=split)
        group.create_array(
            "images",
            shape=(plan.counts[split], side, side, 3),
            shards=(plan.shard_length, side, side, 3),
            chunks=(1, side, side, 3),
            dtype="uint8",
            compressors=[Crc32cCodec()],
        )
        _add(group, "labels", labels[split])
    _publish(memory, store)


def write_statistics(store: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write the group `statistics`."""
    memory = MemoryStore()
    group = zarr.create_group(memory, path="statistics")
    for name, array in arrays.items():
        _add(group, name, array)
    _publish(memory, store, keep="statistics/")


def set_attributes(store: Path, attributes: dict[str, Any], group: str = "") -> None:
    """Replace the attributes of the root or of a group."""
    write_json(
        store / group / "zarr.json", {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    )


def _add(group: zarr.Group, name: str, array: NDArray[Any]) -> None:
    """A small array in one chunk with its checksum; zeros are written like anything else."""
    group.create_array(
        name, data=array, chunks=array.shape, compressors=[Crc32cCodec()], config={"write_empty_chunks": True}
    )


def _publish(memory: MemoryStore, store: Path, keep: str = "") -> None:
    """Write what zarr made in memory to the disk, chunks before metadata, the root's metadata last."""

    async def keys() -> list[str]:
        return [key async for key in memory.list()]

    for key in sorted(sync(keys()), key=lambda key: (key.endswith("zarr.json"), -key.count("/"))):
        if key.startswith(keep):
            content = sync(memory.get(key, default_buffer_prototype()))
            assert content is not None
            write_atomically(store / key, [content.to_bytes()])


def _with_crc(array: NDArray[Any]) -> tuple[bytes, bytes]:
    content = array.tobytes()
    return content, _crc(content)


def _crc(content: bytes) -> bytes:
    value: int = google_crc32c.value(content)
    return value.to_bytes(CRC_BYTES, "little")
