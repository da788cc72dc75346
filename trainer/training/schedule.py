"""How the learning rate falls, and when a run is over (paper, section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.config import OptimizerConfig


@dataclass
class Schedule:
    """The learning rate at each step, and when the run is over.

    Steps count from 0. Only `plateau` has a memory: the best validation error, the epochs since, and how
    often the learning rate fell.
    """

    optim: OptimizerConfig
    steps_per_epoch: float
    """Images in the training set over the global batch; rarely a whole number."""
    best_error: float = math.inf
    epochs_without: int = 0
    falls: int = 0

    FALLS: ClassVar[int] = 3
    """The paper's learning rate fell three times before the end."""

    def last_step(self) -> int:
        """Steps in the whole run: each epoch is finished, so the last batch may reach beyond."""
        assert self.optim.epochs is not None
        return math.ceil(self.optim.epochs * self.steps_per_epoch - 1e-9)

    def ends_epoch(self, steps: int) -> bool:
        """Whether the last image of an epoch was in the last of so many steps."""
        passes = 1 / self.steps_per_epoch
        return math.floor(steps * passes + 1e-9) > math.floor((steps - 1) * passes + 1e-9)

    def epochs_done(self, steps: int) -> int:
        """Epochs whose last image was in one of so many steps. The last batch of a run may reach into further
        epochs, which are not counted: a run of E epochs ends with epoch E."""
        assert self.optim.epochs is not None
        return min(self.optim.epochs, math.floor(steps / self.steps_per_epoch + 1e-9))

    def rate(self, step: int) -> float:
        """The learning rate of one step."""
        o = self.optim
        assert o.lr is not None
        assert o.epochs is not None
        warmup = o.warmup_epochs * self.steps_per_epoch
        if step + 1 < warmup:
            return o.lr * (step + 1) / warmup
        epoch = step / self.steps_per_epoch
        if o.schedule == "cosine":
            done = (epoch - o.warmup_epochs) / max(1e-9, o.epochs - o.warmup_epochs)
            return o.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        falls = self.falls if o.schedule == "plateau" else sum(epoch >= e for e in o.lr_steps)
        return o.lr / 10**falls

    def after_epoch(self, error: float) -> bool:
        """Take note of an epoch's validation error; True when the plateau rule ends the run."""
        if error < self.best_error:
            self.best_error, self.epochs_without = error, 0
            return False
        self.epochs_without += 1
        if self.optim.schedule != "plateau" or self.epochs_without < self.optim.patience:
            return False
        if self.falls == self.FALLS:
            return True
        self.falls, self.epochs_without = self.falls + 1, 0
        return False

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        best = None if math.isinf(self.best_error) else self.best_error
        return {"best_error": best, "epochs_without": self.epochs_without, "falls": self.falls}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        best = state["best_error"]
        self.best_error = math.inf if best is None else best
        self.epochs_without, self.falls = state["epochs_without"], state["falls"]
