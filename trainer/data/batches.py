"""From the store to batches: the order of the samples, and batches made ahead in a thread.

Samples are numbered through the whole run: sample s = step * batch_size + position. Its epoch is s // N and
its place in that epoch's order s % N. So every batch is full, each image comes exactly once an epoch, and the
order is the same for any number of ranks and after a resume. A batch may extend into the next epoch.

N images in the set, B images of this rank's pair, S side of the stored images.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.store import Split, Store, open_store
from trainer.config import AugmentConfig
from trainer.data import augmentation
from trainer.data.input_pipeline import InputPipeline
from trainer.errors import UserError
from trainer.kernels import CROP, Purpose, generator


def open_data(path: Path, crop: int = CROP) -> Store:
    """Open the store of `snakemake preprocess`.

    crop: pixels along a crop. Raises UserError when the store is missing or damaged, or has smaller images.
    """
    try:
        store = open_store(path)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    augmentation.require_size(store.image_size, crop, path)
    return store


def open_training_data(path: Path, crop: int = CROP) -> Store:
    """Open a store to train on. Raises UserError as `open_data`, and for one without a training part."""
    store = open_data(path, crop)
    if not len(store.train):
        raise UserError(
            f"{path} has no training part, it is for evaluation alone: train on another store, and evaluate "
            f"with python -m trainer.evaluate --store {path}"
        )
    return store


def _read_into(split: Split, indices_B: NDArray[np.int64], images_BSS3: NDArray[np.uint8]) -> None:
    """Read images of a split. Raises UserError for damage that is found while reading."""
    try:
        split.read_into(indices_B, images_BSS3)
    except ValueError as error:
        raise UserError(str(error)) from None


def epoch_order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    """All N images in the order of one epoch, int64 [N]."""
    return generator(seed, Purpose.ORDER, epoch).permutation(images)


@dataclass(frozen=True)
class Batch:
    """This pair's share of one global batch."""

    step: int
    images_BCHW: Tensor
    labels_B: Tensor
    indices_B: NDArray[np.int64]
    """Their places in the training set."""
    ready: torch.cuda.Event | None
    """When images and labels are on the GPU: another stream copies and crops them."""


class TrainingBatches:
    """Batches of one run from `first_step` on, made in a background thread; iterate, then `close`."""

    AHEAD = 3
    """Batches that are made ahead, so that a slow read now and then delays no step."""

    def __init__(
        self,
        store: Store,
        settings: AugmentConfig,
        seed: int,
        batch_size: int,
        positions_B: Tensor,
        first_step: int,
        last_step: int,
        threads: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self._store, self._settings, self._seed = store, settings, seed
        self._pipeline = InputPipeline(store.train, store.mean, settings, threads, device)
        self._batch_size, self._positions_B = batch_size, positions_B.numpy()
        self._steps = range(first_step, last_step)
        self._axes = augmentation.color_axes(store.eigenvalues, store.eigenvectors)
        self._epochs: dict[int, tuple[NDArray[np.int64], augmentation.Views]] = {}
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(self.AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        for _ in self._steps:
            item = self._ready.get()
            if isinstance(item, BaseException):
                raise item
            if item.ready:
                stream = torch.cuda.current_stream(item.images_BCHW.device)
                stream.wait_event(item.ready)
                for made in (item.images_BCHW, item.labels_B):  # their memory is free after this stream's use
                    made.record_stream(stream)
            yield item

    def close(self) -> None:
        """Stop the thread; batches that were not used are dropped."""
        self._closed.set()
        self._thread.join()
        self._pipeline.close()

    def _produce(self) -> None:
        for step in self._steps:
            try:
                item: Batch | BaseException = self.make(step)
            except BaseException as error:
                item = error
            while not self._closed.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or isinstance(item, BaseException):
                return

    def make(self, step: int) -> Batch:
        """The batch of one step, independent of those made before."""
        indices_B, views = self.plan(step)
        images_BCHW = self._pipeline.make(indices_B, views)
        labels_B = self._pipeline.labels(self._store.train.labels[indices_B].astype(np.int64))
        return Batch(step, images_BCHW, labels_B, indices_B, self._pipeline.ready())

    def read(self, step: int) -> Tensor:
        """The stored images of the same batch, uint8 [B, S, S, 3]: what is copied to a GPU."""
        return self._pipeline.read(self.plan(step)[0])

    def plan(self, step: int) -> tuple[NDArray[np.int64], augmentation.Views]:
        """The images of the batch of one step, and how each is cropped."""
        samples_B = step * self._batch_size + self._positions_B
        epochs_B, places_B = np.divmod(samples_B, len(self._store.train))
        chosen, views = [], []
        for epoch in np.unique(epochs_B):
            order, drawn = self._epoch(int(epoch))
            places = places_B[epochs_B == epoch]
            chosen.append(order[places])
            views.append(drawn[places])
        return np.concatenate(chosen), augmentation.Views.join(views)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], augmentation.Views]:
        if epoch not in self._epochs:
            images, side = len(self._store.train), self._store.image_size
            self._epochs = {e: v for e, v in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = (
                epoch_order(self._seed, epoch, images),
                augmentation.draw(self._settings, self._axes, self._seed, epoch, images, side),
            )
        return self._epochs[epoch]


def evaluation_batches(
    split: Split, batch: int, share: int, shares: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one share of a split on the device: images uint8 [B, S, S, 3] and labels int64 [B].

    The shares together hold each image exactly once; the last batch is short, never padded. For a GPU the
    next batch is read into pinned memory meanwhile.
    """
    begin, end = (len(split) * s // shares for s in (share, share + 1))
    on_gpu = device.type == "cuda"

    def read(first: int) -> tuple[Tensor, Tensor]:
        indices = np.arange(first, min(first + batch, end))
        images_BSS3 = torch.empty((len(indices), *split.shape[1:]), dtype=torch.uint8, pin_memory=on_gpu)
        _read_into(split, indices, images_BSS3.numpy())
        return images_BSS3, torch.from_numpy(split.labels[indices].astype(np.int64))

    firsts = range(begin, end, batch)
    if not on_gpu:
        yield from map(read, firsts)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="images") as thread:
        ahead = [thread.submit(read, first) for first in firsts[:1]]
        for following in [*firsts[1:], None]:
            images_BSS3, labels_B = ahead.pop().result()
            if following is not None:
                ahead.append(thread.submit(read, following))
            yield images_BSS3.to(device, non_blocking=True), labels_B.to(device)
