"""What a run says of itself, for scripts and for eyes.

metrics.jsonl holds one JSON object a line; TensorBoard's event files beside it hold the same figures:
`tensorboard --logdir runs`, wherever TensorBoard is installed. Rank 0 writes both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from trainer.metrics import read_log


class RunLog:
    """`metrics.jsonl`: one JSON object a line, written at once, so that a killed run keeps its past."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        """Lines of steps after `resume_step`, which a run that goes on will take again, are dropped."""
        kept = [line for line in read_log(path) if line["step"] <= resume_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)
        self._file = path.open("a", buffering=1)
        # Event files are only ever added to: from `purge_step` on, TensorBoard forgets what older ones say.
        self._events = SummaryWriter(
            str(path.parent), purge_step=resume_step + 1 if kept else None, flush_secs=10
        )

    def write(self, *, step: int, **values: Any) -> None:
        """One line, with the time in seconds since 1970; its numbers go to TensorBoard too."""
        self._file.write(json.dumps({"step": step, **values, "time": round(time.time(), 3)}) + "\n")
        for name, value in _numbers(values):
            name = name.removeprefix("val_")
            group = "validation" if f"val_{name}" in values else "training"
            self._events.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _numbers(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{name}", float(value)
