"""The data of a run's figures: its trained network, its log and images of its store.

N images, K classes, S side of the stored image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.store import Split, Store
from trainer.evaluation.pretrained_network import PretrainedNetwork

LIMIT_CPU, LIMIT_GPU = 2_000, 50_000
"""Images of a split that are used unless told otherwise: about half a minute of work on either device."""


@dataclass(frozen=True)
class RunData:
    """One run; results that several figures need are computed once."""

    network: PretrainedNetwork
    store: Store
    log: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    limit: int
    """The largest number of images of a split that are used: the first in the store's shuffled order."""

    @cached_property
    def val_labels(self) -> NDArray[np.int64]:
        """Classes of the validation images that are used, int64 [N]."""
        return self.store.val.labels[: self.limit].astype(np.int64)

    @cached_property
    def val_probabilities(self) -> NDArray[np.float32]:
        """Softmax outputs of the centre crop for the same images, float32 [N, K]."""
        return self.compute(self.store.val, self.network.probabilities)

    def compute(
        self, split: Split, function: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Apply a function to the images of a split that are used, 256 at a time, and join its results."""
        indices = np.arange(min(self.limit, len(split)))
        parts = [indices[first : first + 256] for first in range(0, len(indices), 256)]
        return np.concatenate([function(split.read(part)) for part in parts])

    def of_different_classes(self, count: int) -> NDArray[np.int64]:
        """Indices of the first validation image of each class, for the first `count` classes that occur."""
        _, first = np.unique(self.val_labels, return_index=True)
        return np.sort(first)[:count].astype(np.int64)

    def example(self) -> tuple[NDArray[np.uint8], int]:
        """One image [S, S, 3] and its class: the first of the validation set, else of the training set."""
        split = self.store.val if len(self.store.val) else self.store.train
        return split.read(np.array([0]))[0], int(split.labels[0])
