"""The finished store, from the reading side: the only door between preprocessing and training.

    store = open_store(Path("data/imagenet256.zarr"))
    images_BSS3 = store.train.read(np.array([3, 1, 4]))

Legend: N pictures of a split, B of a batch, S image size.

Usage: python -m preprocess.store --store PATH    (says what a finished store holds)
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from preprocess import stage
from preprocess.errors import UserError
from preprocess.shards.reading import DamageError, ShardReader

SHARED = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})  # pictures are read once an epoch


class StoreError(UserError, ValueError):
    """There is no finished store, or part of it is missing or damaged; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Pictures with labels, in the store's one shuffled order."""

    path: Path
    labels: NDArray[np.int16]  # [N] index into the store's classes
    image_size: int  # S
    shape: tuple[int, ...]  # (N, S, S, 3)
    _images: Any = field(repr=False)  # a ShardReader, or tensorstore's array where pictures are compressed

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read pictures, in any order and with repeats; safe in any thread, and lets others run.

        Args:
            indices: int64 [B], 0..N-1.

        Returns:
            uint8 [B, S, S, 3], 0..255, RGB; the caller's own.

        Raises:
            StoreError: a picture is missing or does not have its checksum.
            IndexError: an index is outside of 0..N-1.
        """
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        self.read_into(indices, images)
        return images

    def read_into(self, indices: NDArray[np.int64], pictures: NDArray[np.uint8]) -> None:
        """Read pictures into `pictures`, uint8 [B, S, S, 3], contiguous; raises like `read`."""
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.path} has pictures 0 to {len(self) - 1}, not {indices}")
        if isinstance(self._images, ShardReader):
            try:
                self._images.read_into(indices, pictures)
            except DamageError as error:
                raise StoreError(f"{error}: {_repair(self.path.parent)}") from None
        else:
            pictures[:] = _read(self._images[indices], self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A finished store."""

    path: Path
    train: Split
    val: Split
    classes: tuple[str, ...]
    class_names: tuple[str, ...] | None  # in words, where the source knows them
    image_size: int  # S
    mean: NDArray[np.float32]  # [S, S, 3] of the training pictures, 0..255
    eigenvalues: NDArray[np.float64]  # [3] of the training pixels' covariance, largest first
    eigenvectors: NDArray[np.float64]  # [3, 3], one a column
    fingerprint: str  # follows from every byte of the content and from nothing else


def open_store(path: Path | str) -> Store:
    """Open a finished store, after a look at the size of every shard.

    Raises:
        StoreError: there is none, it is not finished, or a shard is missing or has the wrong size.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise StoreError(f"there is no store at {path}: run `snakemake preprocess` to make it")
    attributes = _attributes(path)
    if "fingerprint" not in attributes:
        raise StoreError(f"the store at {path} is not finished: run `snakemake preprocess` to go on with it")
    statistics = path / "statistics"
    store = Store(
        path=path,
        train=_open_split(path / "train"),
        val=_open_split(path / "val"),
        classes=tuple(attributes["classes"]),
        class_names=None if attributes["class_names"] is None else tuple(attributes["class_names"]),
        image_size=attributes["image_size"],
        mean=_read(_open_array(statistics / "mean"), statistics),
        eigenvalues=_read(_open_array(statistics / "eigenvalues"), statistics),
        eigenvectors=_read(_open_array(statistics / "eigenvectors"), statistics),
        fingerprint=attributes["fingerprint"],
    )
    _refuse_disagreement(store)
    return store


def _refuse_disagreement(store: Store) -> None:
    """Raise StoreError where the parts are not of one store: compiled loops rely on their shapes."""
    side = store.image_size
    shapes = {
        "statistics/mean": (store.mean.shape, (side, side, 3)),
        "statistics/eigenvalues": (store.eigenvalues.shape, (3,)),
        "statistics/eigenvectors": (store.eigenvectors.shape, (3, 3)),
    }
    for name, split in (("train", store.train), ("val", store.val)):
        shapes[f"{name}/images"] = (split.shape, (len(split), side, side, 3))
    for name, (found, expected) in shapes.items():
        if found != expected:
            shape = f"has the shape {list(found)}, not {list(expected)}"
            raise StoreError(f"{store.path / name} {shape}: {_repair(store.path)}")


def _open_split(path: Path) -> Split:
    for shard, size in enumerate(_attributes(path)["shard_bytes"]):
        file = path / "images" / "c" / str(shard) / "0" / "0" / "0"
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise StoreError(f"shard {file} {state}: {_repair(path.parent)}")
    metadata = json.loads((path / "images" / "zarr.json").read_text())
    plain = ShardReader.understands(metadata)
    return Split(
        path=path,
        labels=_read(_open_array(path / "labels"), path),
        image_size=metadata["shape"][1],
        shape=tuple(metadata["shape"]),
        _images=ShardReader(path / "images", metadata) if plain else _open_array(path / "images"),
    )


def _open_array(path: Path) -> Any:
    specification = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path.resolve())},  # which takes no ".."
        "fill_missing_data_reads": False,  # or a missing shard would read as black pictures
        "recheck_cached_data": "open",
    }
    try:
        return tensorstore.open(specification, open=True, read=True, context=SHARED).result()
    except ValueError as error:
        reason = str(error).split(" [")[0]
        raise StoreError(f"{path} cannot be opened ({reason}): {_repair(path.parent.parent)}") from error


def _read(array: Any, path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = array.read().result()
    except ValueError as error:
        reason = str(error).split(" [")[0]  # behind it stand tensorstore's lines of source
        raise StoreError(f"{path} is damaged ({reason}): {_repair(path.parent)}") from error
    return found


def _attributes(group: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((group / "zarr.json").read_text())["attributes"]
    return found


def _repair(store: Path) -> str:
    return f"run `python -m preprocess.verify --store {store}`, which says what to do"


def describe(arguments: argparse.Namespace) -> str:
    """One line on a finished store; raises StoreError."""
    store = open_store(arguments.store)
    return (
        f"{store.path} is ready: {len(store.classes)} classes, {len(store.train)} pictures for training, "
        f"{len(store.val)} for validation, fingerprint {store.fingerprint}"
    )


if __name__ == "__main__":
    stage.run(stage.parser(__doc__).parse_args(), describe, writes=False)
