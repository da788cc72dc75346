"""Exact error counts, a run's log as it is read, and its speed. eventlog.py writes the log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Counts:
    """Whole numbers, so that any split of a set over ranks adds up to the same errors."""

    images: int
    top1_wrong: int
    top5_wrong: int

    @property
    def top1_error(self) -> float:
        """Fraction of pictures whose class is not the first guess."""
        return self.top1_wrong / self.images

    @property
    def top5_error(self) -> float:
        """Fraction of pictures whose class is not among the first five guesses."""
        return self.top5_wrong / self.images


class Tally:
    """Counts class by class, and which class was taken for which: int64, K classes.

    Memory is K x K x 8 bytes, 8 MB for ImageNet.
    """

    def __init__(self, classes: int) -> None:
        self.images_K = np.zeros(classes, np.int64)
        self.top1_wrong_K = np.zeros(classes, np.int64)
        self.top5_wrong_K = np.zeros(classes, np.int64)
        self.confusion_KK = np.zeros((classes, classes), np.int64)
        """Row: a picture's class. Column: its first guess; scores that are all no numbers are no guess."""

    def add(self, scores_BK: Tensor, labels_B: Tensor) -> Tally:
        """Count B more pictures; scores float [B, K], higher is likelier, labels int64 [B]. Returns itself.

        Equal scores rank by class index, so that a constant network guesses class 0 and nothing else.
        """
        own_B1 = scores_BK.gather(1, labels_B[:, None])
        classes_K = torch.arange(scores_BK.shape[1], device=scores_BK.device)
        ahead_BK = (scores_BK > own_B1) | ((scores_BK == own_B1) & (classes_K < labels_B[:, None]))
        # A score that is not a number is ahead of nothing and behind nothing; it counts as wrong.
        none_BK = scores_BK.isnan()
        rank_B = torch.where(own_B1[:, 0].isnan(), scores_BK.shape[1], ahead_BK.sum(1)).cpu().numpy()
        guess_B = scores_BK.masked_fill(none_BK, -math.inf).argmax(1).cpu().numpy()
        guessed_B = ~none_BK.all(1).cpu().numpy()
        labels = labels_B.cpu().numpy()
        np.add.at(self.images_K, labels, 1)
        np.add.at(self.top1_wrong_K, labels[rank_B >= 1], 1)
        np.add.at(self.top5_wrong_K, labels[rank_B >= 5], 1)
        np.add.at(self.confusion_KK, (labels[guessed_B], guess_B[guessed_B]), 1)
        return self

    def summed(self, total: Callable[[Tensor], Tensor]) -> Tally:
        """The sum over ranks; `total` adds up one float64 vector, exact for whole numbers below 2^53."""
        mine = (self.images_K, self.top1_wrong_K, self.top5_wrong_K, self.confusion_KK)
        everyone = total(torch.from_numpy(np.concatenate([part.ravel() for part in mine])).double())
        K, numbers = len(self.images_K), everyone.numpy().astype(np.int64)
        found = Tally(K)
        found.images_K, found.top1_wrong_K, found.top5_wrong_K = numbers[: 3 * K].reshape(3, K)
        found.confusion_KK = numbers[3 * K :].reshape(K, K)
        return found

    @property
    def counts(self) -> Counts:
        """Over all classes."""
        return Counts(*(int(part.sum()) for part in (self.images_K, self.top1_wrong_K, self.top5_wrong_K)))


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a run's log; a last line that was cut off in the middle is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


class Meter:
    """Loss, speed, and the share of time that was spent waiting for pictures, since the last reading."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.recent_loss = math.nan
        self._reset()

    def _reset(self) -> None:
        self._losses: list[float] = []
        self._waited = 0.0
        self._since = time.perf_counter()

    def waits(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with the clock running while the next one is awaited."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def step(self, loss: float) -> None:
        self._losses.append(loss)
        first = math.isnan(self.recent_loss)
        self.recent_loss = loss if first else 0.9 * self.recent_loss + 0.1 * loss

    def pause(self) -> None:
        """Forget the time since the last reading: it was not spent on training."""
        self._reset()

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._since
        values = {
            "loss": sum(self._losses) / len(self._losses),
            "images_per_second": len(self._losses) * self._batch_size / seconds,
            "data_wait": self._waited / seconds,
        }
        self._reset()
        return values
