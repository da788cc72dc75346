"""Exact error counts, and the log of a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Counts:
    """Whole numbers, so that any split of a set over ranks adds up to the same errors."""

    images: int = 0
    top1_wrong: int = 0
    top5_wrong: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.images + other.images,
            self.top1_wrong + other.top1_wrong,
            self.top5_wrong + other.top5_wrong,
        )

    @property
    def top1_error(self) -> float:
        """Fraction of pictures whose class is not the first guess."""
        return self.top1_wrong / self.images

    @property
    def top5_error(self) -> float:
        """Fraction of pictures whose class is not among the first five guesses."""
        return self.top5_wrong / self.images


def count(scores_BK: Tensor, labels_B: Tensor) -> Counts:
    """Count what is wrong. Equal scores rank by class index, so that a constant network guesses class 0
    and nothing else."""
    own_B1 = scores_BK.gather(1, labels_B[:, None])
    classes_K = torch.arange(scores_BK.shape[1], device=scores_BK.device)
    ahead_BK = (scores_BK > own_B1) | ((scores_BK == own_B1) & (classes_K < labels_B[:, None]))
    # A score that is not a number is ahead of nothing and behind nothing; it counts as wrong.
    rank_B = torch.where(own_B1[:, 0].isnan(), scores_BK.shape[1], ahead_BK.sum(1))
    return Counts(len(labels_B), int((rank_B >= 1).sum()), int((rank_B >= 5).sum()))


class RunLog:
    """`metrics.jsonl`: one JSON object a line, written at once, so that a killed run keeps its past."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        """Lines of steps after `resume_step`, which a run that goes on will take again, are dropped."""
        kept = [line for line in read_log(path) if line["step"] <= resume_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)
        self._file = path.open("a", buffering=1)

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._file.close()


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
