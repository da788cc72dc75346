"""Reads a finished store. This module is the interface between preprocessing and training.

    store = open_store("data/imagenet256.zarr")
    images_BSS3 = store.train.read([3, 1, 4])
    image_SS3, label = store.train[3]    # a split is a map-style dataset of torch

Legend: N images of a split, B images of a batch, S image size in pixels.

Usage: python -m preprocess.store --store PATH    (prints what a finished store holds)
"""

import argparse
import operator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, SupportsIndex, TypedDict, TypeVar

import numpy as np
import tensorstore
from numpy.typing import ArrayLike, NDArray

from preprocess import stage
from preprocess.errors import UserError
from preprocess.plan import UPRIGHT, repair
from preprocess.shards.layout import chunk_path
from preprocess.shards.reading import DamageError, ShardReader
from preprocess.shared import json_files
from preprocess.shared.json_files import JsonError
from preprocess.shared.program import words
from preprocess.sources.class_names import ilsvrc2012 as ilsvrc2012  # for the trainer
from preprocess.sources.class_names import in_words as in_words

SHARED = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})  # each image is read once an epoch


T = TypeVar("T")


class _Group(TypedDict):
    attributes: dict[str, Any]


class _Root(TypedDict):
    classes: list[str]
    class_names: list[str] | None
    image_size: int
    orientation: NotRequired[str]
    fingerprint: str


class _Split(TypedDict):
    shard_bytes: list[int]


class StoreError(UserError, ValueError):
    """There is no finished store, or a part of it is missing or damaged; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images and labels of a split, in the shuffled order of the store.

    A map-style dataset, as torch.utils.data calls it, of pairs (image, label). A pickle of it has the labels
    and the path of the images; the process that reads it opens the files itself.
    """

    path: Path
    labels: NDArray[np.int16]  # [N] index into the store's classes
    image_size: int  # S
    shape: tuple[int, ...]  # (N, S, S, 3)
    _images: Any = field(repr=False)  # a ShardReader, or a tensorstore array where images are compressed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: SupportsIndex) -> tuple[NDArray[np.uint8], int]:
        """An image, uint8 [S, S, 3], and its label. index: 0..N-1. Raises as `read` does."""
        images = self.read([operator.index(index)])
        return images[0], int(self.labels[index])

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """Read images, in any order and with repeats. Thread-safe; lets other threads run meanwhile.

        Args:
            indices: B whole numbers, 0..N-1: a list, a NumPy array or a tensor.

        Returns:
            uint8 [B, S, S, 3], 0..255, RGB; a new array.

        Raises:
            StoreError: an image is missing or does not match its checksum.
            IndexError: an index is outside of 0..N-1.
            TypeError: the indices are no whole numbers in one dimension.
        """
        indices = _as_indices(indices)
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        self.read_into(indices, images)
        return images

    def read_into(self, indices: ArrayLike, images: NDArray[np.uint8]) -> None:
        """Read images into `images`, uint8 [B, S, S, 3], contiguous. Raises as `read` does."""
        indices = _as_indices(indices)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"{self.path} has images 0 to {len(self) - 1}, not {indices}")
        if isinstance(self._images, ShardReader):
            try:
                self._images.read_into(indices, images)
            except DamageError as error:
                raise StoreError(f"{error}: {repair(self.path.parent)}") from None
        else:
            images[:] = _read(self._images[indices], self.path)


def _as_indices(indices: ArrayLike) -> NDArray[np.int64]:
    """Indices as int64 [B]. Raises TypeError."""
    found = np.asarray(indices)
    if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        kind = f"{found.dtype} of shape {list(found.shape)}"
        raise TypeError(f"indices must be whole numbers in one dimension, not {kind}")
    return found.astype(np.int64, copy=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A finished store."""

    path: Path
    train: Split
    val: Split
    classes: tuple[str, ...]
    class_names: tuple[str, ...] | None  # in words, where the source or ILSVRC-2012 has them
    image_size: int  # S
    mean: NDArray[np.float32]  # [S, S, 3] of the training images, 0..255; NaN where there are none, as below
    eigenvalues: NDArray[np.float64]  # [3] of the training pixels' covariance, largest first
    eigenvectors: NDArray[np.float64]  # [3, 3], one a column
    upright: bool  # whether images were turned as their EXIF data say
    fingerprint: str  # hash of the content alone: the same for the same bytes


def open_store(path: Path | str) -> Store:
    """Open a finished store, after a check of every shard's size.

    Raises:
        StoreError: there is none, it is not finished, or a shard is missing or has the wrong size.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise StoreError(f"there is no store at {path}: run `snakemake preprocess` to make it")
    if "fingerprint" not in attributes(path, dict[str, Any], path):
        raise StoreError(f"the store at {path} is not finished: run `snakemake preprocess` to finish it")
    root = attributes(path, _Root, path)
    names = root["class_names"]
    train, size = _open_split(path / "train"), root["image_size"]
    store = Store(
        path=path,
        train=train,
        val=_open_split(path / "val"),
        classes=tuple(root["classes"]),
        class_names=in_words(root["classes"]) if names is None else tuple(names),
        image_size=size,
        **(_statistics(path / "statistics") if len(train) else _no_statistics(size)),
        upright=root.get("orientation") == UPRIGHT,
        fingerprint=root["fingerprint"],
    )
    _refuse_disagreement(store)
    return store


def _statistics(path: Path) -> dict[str, NDArray[Any]]:
    """The statistics of a training set, by the names that `Store` gives them. Raises StoreError."""
    kinds = {"mean": ("float32", 3), "eigenvalues": ("float64", 1), "eigenvectors": ("float64", 2)}
    return {name: _read(_open_array(path / name, *kind), path) for name, kind in kinds.items()}


def _no_statistics(side: int) -> dict[str, NDArray[Any]]:
    """Those of no images: NaN, so that whoever uses them notices."""
    return {
        "mean": np.full((side, side, 3), np.nan, np.float32),
        "eigenvalues": np.full(3, np.nan),
        "eigenvectors": np.full((3, 3), np.nan),
    }


def _refuse_disagreement(store: Store) -> None:
    """Raise StoreError where shapes or labels disagree: compiled loops rely on them without a check."""
    side = store.image_size
    shapes = {
        "statistics/mean": (store.mean.shape, (side, side, 3)),
        "statistics/eigenvalues": (store.eigenvalues.shape, (3,)),
        "statistics/eigenvectors": (store.eigenvectors.shape, (3, 3)),
    }
    splits = {"train": store.train, "val": store.val}
    for name, split in splits.items():
        shapes[f"{name}/images"] = (split.shape, (len(split), side, side, 3))
    wrong = [
        f"{store.path / name} has the shape {list(found)}, not {list(expected)}"
        for name, (found, expected) in shapes.items()
        if found != expected
    ]
    classes = len(store.classes)
    wrong += [
        f"{store.path / name / 'labels'} has labels outside of 0 to {classes - 1}"
        for name, split in splits.items()
        if len(split) and not 0 <= split.labels.min() <= split.labels.max() < classes
    ]
    if store.class_names is not None and len(store.class_names) != classes:
        wrong.append(f"{store.path / 'zarr.json'} has {len(store.class_names)} names of {classes} classes")
    if wrong:
        raise StoreError(f"{wrong[0]}: {repair(store.path)}")


def _open_split(path: Path) -> Split:
    for shard, size in enumerate(attributes(path, _Split, path.parent)["shard_bytes"]):
        file = chunk_path(path / "images", shard)
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise StoreError(f"shard {file} {state}: {repair(path.parent)}")
    images = _open_array(path / "images", "uint8", 4)
    metadata = _json(path / "images", dict[str, Any], path.parent)
    return Split(
        path=path,
        labels=_read(_open_array(path / "labels", "int16", 1), path),
        image_size=images.shape[1],
        shape=images.shape,
        _images=ShardReader(path / "images", metadata) if ShardReader.supports(metadata) else images,
    )


def _open_array(path: Path, dtype: str, dimensions: int) -> Any:
    store = path.parent.parent
    _json(path, dict[str, Any], store)  # or tensorstore's own long message
    specification = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path.resolve())},  # it accepts no ".."
        "fill_missing_data_reads": False,  # or a missing shard would read as black images
        "recheck_cached_data": "open",
    }
    try:
        array = tensorstore.open(specification, open=True, read=True, context=SHARED).result()
    except ValueError as error:
        reason = str(error).split(" [")[0]
        raise StoreError(f"{path} cannot be opened ({reason}): {repair(store)}") from error
    if (array.dtype.name, array.rank) != (dtype, dimensions):
        found = f"{array.rank} dimensions of {array.dtype.name}, not {dimensions} of {dtype}"
        raise StoreError(f"{path} has {found}: {repair(store)}")
    return array


def _read(array: Any, path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = array.read().result()
    except ValueError as error:
        reason = str(error).split(" [")[0]  # what follows is tensorstore's own source location
        raise StoreError(f"{path} is damaged ({reason}): {repair(path.parent)}") from error
    return found


def attributes(group: Path, kind: type[T], store: Path) -> T:
    """The attributes of a group of a store, as `json_files` reads a kind. Raises StoreError."""
    try:
        return json_files.convert(_json(group, _Group, store)["attributes"], kind, f"{group / 'zarr.json'}")
    except JsonError as error:
        raise StoreError(f"{error}: {repair(store)}") from None


def _json(folder: Path, kind: type[T], store: Path) -> T:
    """The zarr.json of a group or an array. Raises StoreError."""
    try:
        return json_files.read(folder / "zarr.json", kind)
    except JsonError as error:
        raise StoreError(f"{error}: {repair(store)}") from None


def describe(arguments: argparse.Namespace) -> str:
    """One line about a finished store. Raises StoreError."""
    from preprocess.sources.stamps import changed_place  # for the command alone

    store = open_store(arguments.store)
    place = changed_place(store.path)
    remedy = f"to take that in, remove {store.path} or name another store=PATH, and run again"
    changed = f"; {place} has changed since: {remedy}" if place else ""
    images = (
        f"{len(store.train)} images for training, {len(store.val)} for validation"
        if len(store.train)
        else f"{len(store.val)} images, for evaluation alone"
    )
    return (
        f"{store.path} is ready: {len(store.classes)} classes, {images}, "
        f"fingerprint {store.fingerprint}{changed}"
    )


if __name__ == "__main__":
    stage.run(stage.parser(__doc__).parse_args(words()), describe, writes=False)
