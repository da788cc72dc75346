"""The zarr hierarchy without its shards: made by zarr in memory, then written file by file, atomically."""

from pathlib import Path
from typing import Any

import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from preprocess.plan import SPLITS, Plan, Tables, manifest, record_path, save_plan, sums_path
from preprocess.shards.layout import shard_path
from preprocess.shared.files import write_atomically, write_json

DIMENSIONS = {
    "images": ("image", "row", "column", "channel"),
    "labels": ("image",),
    "mean": ("row", "column", "channel"),
    "covariance": ("channel", "other_channel"),
    "eigenvalues": ("component",),
    "eigenvectors": ("channel", "component"),
}
"""The names of each array's dimensions, for readers such as xarray; no two of an array are the same."""


def publish(store: Path, plan: Plan, tables: Tables) -> None:
    """Write plan, tables and metadata of a new or changed plan, and the manifest of stage 1 last.

    Shards that the plan no longer has are removed.
    """
    (store / "zarr.json").unlink(missing_ok=True)
    save_plan(store, plan, tables)
    for split in SPLITS:
        for folder in (store / split / "images" / "c").glob("*/"):
            shard = int(folder.name)
            if shard >= plan.shards(split):
                record_path(store, split, shard).unlink(missing_ok=True)
                if split == "train":
                    sums_path(store, shard).unlink(missing_ok=True)
                shard_path(store, split, shard).unlink(missing_ok=True)
    _create(store, plan, tables)
    write_json(manifest(store, "index"), {"identity": plan.identity, "counts": plan.counts})


def _create(store: Path, plan: Plan, tables: Tables) -> None:
    """Write the metadata and the labels, the root's metadata last."""
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
            dimension_names=DIMENSIONS["images"],
        )
        _add(group, "labels", tables[split]["label"])
    _write(memory, store)


def write_statistics(store: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write the group `statistics`."""
    memory = MemoryStore()
    group = zarr.create_group(memory, path="statistics")
    for name, array in arrays.items():
        _add(group, name, array)
    _write(memory, store, prefix="statistics/")


def _add(group: zarr.Group, name: str, array: NDArray[Any]) -> None:
    """Add a small array in one chunk with a checksum; a chunk of zeros is written too."""
    chunks = tuple(max(1, length) for length in array.shape)
    group.create_array(
        name,
        data=array,
        chunks=chunks,
        compressors=[Crc32cCodec()],
        dimension_names=DIMENSIONS[name],
        config={"write_empty_chunks": True},
    )


def _write(memory: MemoryStore, store: Path, prefix: str = "") -> None:
    """Write the keys with this prefix to the disk, chunks before metadata, the root's metadata last."""

    async def keys() -> list[str]:
        return [key async for key in memory.list()]

    for key in sorted(sync(keys()), key=lambda key: (key.endswith("zarr.json"), -key.count("/"))):
        if key.startswith(prefix):
            content = sync(memory.get(key, default_buffer_prototype()))
            assert content is not None
            write_atomically(store / key, content.to_bytes())
