"""A run's log: metrics.jsonl, one JSON object a line, and the same figures as TensorBoard's event files.

`tensorboard --logdir runs` shows the latter where TensorBoard is installed. Rank 0 writes both.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from preprocess.shared.files import write_atomically
from trainer.errors import UserError


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a run's log; a last line that was cut off in the middle is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


class RunLog:
    """Writes metrics.jsonl and the event files, each line at once: a killed run keeps its log."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        """Keep the lines up to `resume_step`; later steps will be taken again.

        Raises UserError when the log cannot be written.
        """
        self._path = path
        self.failure: str | None = None
        """A sentence, once a line could not be written; nothing is written after it."""
        kept = [line for line in read_log(path) if line["step"] <= resume_step]
        self._validated = {line["step"] for line in kept if "val_top1_error" in line}
        try:
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            # Without a buffer: closing the file does not try again what a full disk refused.
            self._file = path.open("ab", buffering=0)
            # In this thread: that of tensorboardX ends the process on a full disk, or waits for ever.
            self._events = EventsWriter(str(path.parent / "events"))
            if kept:  # earlier event files stay: their readers then drop what they hold from this step on
                start = SessionLog(status=SessionLog.START)
                self._events.write_event(Event(step=resume_step + 1, session_log=start))
        except OSError as error:
            raise UserError(self._sentence(error)) from None

    def write(self, *, step: int, **values: Any) -> None:
        """One line, with the time in seconds since 1970; its numbers go to TensorBoard too."""
        now = round(time.time(), 3)
        if self.failure:
            return
        try:
            line = (json.dumps({"step": step, **values, "time": now}) + "\n").encode()
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for name, value in _numbers(values):
                name = name.removeprefix("val_")
                group = "validation" if f"val_{name}" in values else "training"
                summary = scalar(f"{group}/{name}", value)
                self._events.write_event(Event(step=step, wall_time=now, summary=summary))
            self._events.flush()
        except OSError as error:
            self.failure = self._sentence(error)

    def _sentence(self, error: OSError) -> str:
        return (
            f"The log {self._path} could not be written: {error.strerror}. Make room there and start the "
            "same command again: it continues from the last checkpoint."
        )

    def has_validation(self, step: int) -> bool:
        """Whether the errors after so many steps are in the log already."""
        return step in self._validated

    def close(self) -> None:
        """Close both files."""
        with contextlib.suppress(OSError):
            self._file.close()
            self._events.close()


def _numbers(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{above}{name}", float(value)
