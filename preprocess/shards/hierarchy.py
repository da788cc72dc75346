"""Everything of the zarr hierarchy but its shards: made by zarr in memory, each file then written whole."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from preprocess.plan import SPLITS, Plan
from preprocess.shared.files import write_atomically


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
            write_atomically(store / key, content.to_bytes())
