"""Stored images -> network input, by several threads, into memory that is used again.

On the CPU a thread reads a few images, verifies them, and crops them while they are in the cache. For a GPU
the threads only read: uint8 images are copied to the GPU, which crops them.

B images of a batch, S side of a stored image, H and W of a crop.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.store import Split, StoreError
from trainer.config import AugmentConfig
from trainer.data import augmentation
from trainer.errors import UserError

IMAGES_AT_A_TIME = 16
"""Images that a thread reads before it crops them. With fewer, more calls need Python's lock:
two threads make 10,800 images a second with 4, and 14,400 with 16."""


class BufferPool:
    """Arrays of one shape whose memory is used again once nothing refers to them.

    Fresh pages cost as much as the cropping itself: the kernel fills them with zeros first.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = dtype
        self._free: list[NDArray[Any]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """An array with any content. Tensors made of it keep it; NumPy slices of it do not."""
        memory = self._free.pop() if self._free else np.empty(shape, self._dtype)
        if memory.shape != shape:
            memory = np.empty(shape, self._dtype)
        array = memory.view()
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array


class InputPipeline:
    """Makes network input of one split's images, on the device that trains."""

    def __init__(
        self,
        split: Split,
        mean_SS3: NDArray[np.float32],
        settings: AugmentConfig,
        threads: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self._split, self._size = split, settings.crop_size
        self._device = device or torch.device("cpu")
        self._cropper = augmentation.Cropper(mean_SS3, settings, training=True, device=self._device)
        self._inputs, self._bytes = BufferPool(np.float32), BufferPool(np.uint8)
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="images")
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)

    def make(self, indices_B: NDArray[np.int64], views: augmentation.Views) -> Tensor:
        """Float32 [B, 3, H, W] in channels_last. Raises UserError where the store is damaged.

        On a GPU the images are there once `ready` has come: the host does not wait for it.
        """
        if self._device.type == "cuda":
            return self._on_gpu(indices_B, views)
        shape = (len(indices_B), self._size, self._size, 3)
        out_BHW3 = torch.from_numpy(self._inputs.take(shape))
        side = self._split.image_size

        def crop(part: range) -> None:
            images = np.empty((IMAGES_AT_A_TIME, side, side, 3), np.uint8)
            for first in range(part.start, part.stop, IMAGES_AT_A_TIME):
                few = slice(first, min(first + IMAGES_AT_A_TIME, part.stop))
                read = images[: few.stop - few.start]
                self._split.read_into(indices_B[few], read)
                self._cropper.crop(torch.from_numpy(read), views[few], out_BHW3[few])

        self._divide_among_threads(crop, len(indices_B))
        return out_BHW3.permute(0, 3, 1, 2)

    def read(self, indices_B: NDArray[np.int64], pinned: bool = False) -> Tensor:
        """Whole images, uint8 [B, S, S, 3]; `pinned`: in page-locked memory, which a GPU copies from."""
        shape = (len(indices_B), self._split.image_size, self._split.image_size, 3)
        # torch uses its pinned memory again only when the copy from it is over.
        images = (
            torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            if pinned
            else torch.from_numpy(self._bytes.take(shape))
        )
        images_BSS3 = images.numpy()

        def read(part: range) -> None:
            mine = slice(part.start, part.stop)
            self._split.read_into(indices_B[mine], images_BSS3[mine])

        self._divide_among_threads(read, len(indices_B))
        return images

    def labels(self, labels_B: NDArray[np.int64]) -> Tensor:
        """Labels int64 [B] on the device, as `make` has images there."""
        labels = torch.from_numpy(labels_B)
        if self._device.type != "cuda":
            return labels
        with torch.cuda.stream(self._stream):
            return labels.pin_memory().to(self._device, non_blocking=True)

    def ready(self) -> torch.cuda.Event | None:
        """When a GPU is done with what was made so far; None on a CPU, where it is done already."""
        return self._stream.record_event() if self._device.type == "cuda" else None

    def _on_gpu(self, indices_B: NDArray[np.int64], views: augmentation.Views) -> Tensor:
        images = self.read(indices_B, pinned=True)
        with torch.cuda.stream(self._stream):  # in this thread, while another stream trains
            bytes_BSS3 = images.to(self._device, non_blocking=True)
            return self._cropper.crop(bytes_BSS3, views)

    def _divide_among_threads(self, work: Callable[[range], None], images: int) -> None:
        """Call `work` on an equal part of the images in each thread, on the first part in this one."""
        bounds = [images * t // self._threads for t in range(self._threads + 1)]
        mine, *others = [range(*pair) for pair in itertools.pairwise(bounds)]
        at_work = [self._pool.submit(work, part) for part in others]
        try:
            try:
                work(mine)
            finally:
                wait(at_work)  # or memory that they still write to would be used again
            for part in at_work:
                part.result()
        except StoreError as error:
            raise UserError(str(error)) from None

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
