"""The data of a run's figures: its trained network, its log and images of its store.

N images, K classes, S side of the stored image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.store import Split, Store
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.figures import Layer, responses
from trainer.figures.responses import Responses
from trainer.model.standalone import AlexNet

LIMIT_CPU, LIMIT_GPU = 2_000, 50_000
"""Images of a split that are used unless told otherwise: about half a minute of work on either device."""
LAYERS: tuple[Layer, ...] = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
BATCH = 64  # conv1 and its LRN take some MB an image


@dataclass(frozen=True)
class RunData:
    """One run; results that several figures need are computed once."""

    network: PretrainedNetwork
    opened: Store | None
    """The store as the network sees it; None where there is none."""
    log: list[dict[str, Any]]
    """The lines of metrics.jsonl; none for an exported file."""
    limit: int
    """The largest number of images of a split that are used: the first in the store's shuffled order."""
    layer: Layer | None = None
    """The layer of `strongest`; None: some units of several."""
    units: tuple[int, ...] = ()
    """Units of that layer; none: those that are the most selective."""

    @property
    def store(self) -> Store:
        """The store. Raises UserError where there is none."""
        if self.opened is None:
            raise UserError("it needs images: name a store with --store")
        return self.opened

    @property
    def val(self) -> Split:
        """The validation set. Raises UserError where it is empty."""
        if not len(self.store.val):
            raise UserError("the store has no validation images")
        return self.store.val

    @property
    def shown(self) -> Split:
        """The images that examples are taken from: the validation set, or the training set without one."""
        return self.store.val if len(self.store.val) else self.store.train

    @property
    def described(self) -> str:
        """The images of `responses` in words: "2,000 validation images"."""
        kind = "validation" if len(self.store.val) else "training"
        return f"{min(self.limit, len(self.shown)):,} {kind} images"

    @cached_property
    def module(self) -> AlexNet:
        """The network with a submodule for each operation."""
        return self.network.module()

    @cached_property
    def responses(self) -> dict[Layer, Responses]:
        """Outputs of LAYERS, and of `layer`, for the centre crops of the images that are used."""
        others = () if self.layer is None or self.layer in LAYERS else (self.layer,)
        (center,) = augmentation.center_crop(self.network.image_size, self.network.crop_size)
        # In torch's usual order of memory: on a CPU a quarter faster here than channels_last.
        inputs = (
            self.network.inputs(images, center).contiguous().to(self.network.device)
            for images in self.batches(self.shown, BATCH)
        )
        return responses.measure(self.module, (*LAYERS, *others), inputs)

    @cached_property
    def val_labels(self) -> NDArray[np.int64]:
        """Classes of the validation images that are used, int64 [N]."""
        return self.val.labels[: self.limit].astype(np.int64)

    @cached_property
    def val_probabilities(self) -> NDArray[np.float32]:
        """Softmax outputs of the centre crop for the same images, float32 [N, K]."""
        return self.compute(self.val, self.network.probabilities)

    def batches(self, split: Split, size: int) -> Iterator[NDArray[np.uint8]]:
        """The images of a split that are used, at most `size` at a time, uint8 [B, S, S, 3]."""
        indices = np.arange(min(self.limit, len(split)))
        for first in range(0, len(indices), size):
            yield split.read(indices[first : first + size])

    def compute(
        self, split: Split, function: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Apply a function to the images of a split that are used, 256 at a time, and join its results."""
        return np.concatenate([function(images) for images in self.batches(split, 256)])

    def crops(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The centre crops of images of `shown`, uint8 [B, H, W, 3]: the network's input as pictures."""
        ((top, left, _),) = augmentation.center_crop(self.network.image_size, self.network.crop_size)
        size = self.network.crop_size
        return self.shown.read(indices)[:, top : top + size, left : left + size]

    def of_different_classes(self, count: int) -> NDArray[np.int64]:
        """Indices of the first validation image of each class, for the first `count` classes that occur."""
        _, first = np.unique(self.val_labels, return_index=True)
        return np.sort(first)[:count].astype(np.int64)

    def example(self) -> tuple[NDArray[np.uint8], int]:
        """One image [S, S, 3] and its class: the first of `shown`."""
        return self.shown.read(np.array([0]))[0], int(self.shown.labels[0])
