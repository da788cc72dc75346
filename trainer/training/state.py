"""Where a run is: what training continues from, next to the tensors of a checkpoint."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.runs.formats import InitFrom
from trainer.training.schedule import Schedule


class RunState:
    """The step, the schedule, and which images were seen."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.step = 0
        """Steps that were taken."""
        self.samples = ""
        """SHA-256 of the images that this rank's pair was trained on, in their order, chained by step."""
        self.init_from: InitFrom | None = None
        """The network that the run was fine-tuned from."""
        self.epoch_is_open = False
        """Whether the last step ends an epoch whose validation the schedule has not counted yet."""

    @property
    def epoch(self) -> float:
        """Passes over the training set so far."""
        return self.step / self.schedule.steps_per_epoch

    def advance(self, indices_B: NDArray[np.int64]) -> None:
        """One more step, on these images of the training set."""
        self.samples = hashlib.sha256(self.samples.encode() + indices_B.tobytes()).hexdigest()
        self.step += 1
        self.epoch_is_open = self.schedule.ends_epoch(self.step)

    def validated_epoch(self) -> float:
        """The epoch that a validation after this step belongs to: a whole number at the end of one."""
        whole = self.schedule.ends_epoch(self.step)  # else the run was told to end within an epoch
        return self.schedule.epochs_done(self.step) if whole else round(self.epoch, 3)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint's state.json."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "epoch_is_open": self.epoch_is_open,
            "schedule": self.schedule.state(),
            "samples": self.samples,
            "init_from": self.init_from,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `to_dict`; also of older versions' states."""
        self.step, self.samples = state["step"], state.get("samples", "")
        self.epoch_is_open = state.get("epoch_is_open", False)
        self.init_from = state.get("init_from")
        self.schedule.restore(state["schedule"])
