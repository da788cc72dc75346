"""What figures are drawn of: a trained network, its run's log and pictures of its store.

N pictures, K classes, S side of the stored picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.store import Split, Store
from trainer.evaluation.pretrained import Trained

ON_CPU, ON_GPU = 2_000, 50_000
"""Pictures of a split that are looked at unless told otherwise: about half a minute of either machine."""


@dataclass(frozen=True)
class Subject:
    """One run; what several figures need is computed once."""

    trained: Trained
    store: Store
    log: list[dict[str, Any]]
    """The lines of metrics.jsonl."""
    limit: int
    """At most so many pictures of a split are looked at, the first of the store's shuffled order."""

    def indices(self, split: Split) -> NDArray[np.int64]:
        return np.arange(min(self.limit, len(split)))

    @cached_property
    def val_labels(self) -> NDArray[np.int64]:
        """int64 [N], of the validation pictures that are looked at."""
        return self.store.val.labels[: self.limit].astype(np.int64)

    @cached_property
    def val_probabilities(self) -> NDArray[np.float32]:
        """Softmax outputs of the centre crop for the same pictures, float32 [N, K]."""
        return self.over(self.store.val, self.trained.probabilities)

    def over(self, split: Split, compute: Any) -> NDArray[np.float32]:
        """`compute` on the pictures that are looked at, without holding all of them in memory."""
        indices = self.indices(split)
        parts = [indices[first : first + 256] for first in range(0, len(indices), 256)]
        return np.concatenate([compute(split.read(part)) for part in parts])

    def of_different_classes(self, count: int) -> NDArray[np.int64]:
        """The first validation picture of each of the first `count` classes that come: not chosen by hand."""
        _, first = np.unique(self.val_labels, return_index=True)
        return np.sort(first)[:count].astype(np.int64)

    def example(self) -> tuple[NDArray[np.uint8], int]:
        """One picture [S, S, 3] and its class: the first for validation, or for training if there is none."""
        split = self.store.val if len(self.store.val) else self.store.train
        return split.read(np.array([0]))[0], int(split.labels[0])

    def name(self, index: int) -> str:
        return self.trained.name(index)
