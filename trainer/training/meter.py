"""Mean loss, images per second and the share of time spent waiting for data, between two log lines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Meter:
    """Collects step after step; `read` gives the means since the last reading."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.recent_loss = math.nan
        self._reset()

    def _reset(self) -> None:
        self._losses: list[float] = []
        self._waited = 0.0
        self._since = time.perf_counter()

    def waits(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time that each one is waited for is added up."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def step(self, loss: float) -> None:
        """Add one step's loss."""
        self._losses.append(loss)
        first = math.isnan(self.recent_loss)
        self.recent_loss = loss if first else 0.9 * self.recent_loss + 0.1 * loss

    def pause(self) -> None:
        """Leave out the time since the last reading: it was not spent on training."""
        self._reset()

    def read(self) -> dict[str, float]:
        """`loss`, `images_per_second` and `data_wait` (0..1) since the last reading."""
        seconds = time.perf_counter() - self._since
        values = {
            "loss": sum(self._losses) / len(self._losses),
            "images_per_second": len(self._losses) * self._batch_size / seconds,
            "data_wait": self._waited / seconds,
        }
        self._reset()
        return values
