"""A run's log: metrics.jsonl, one JSON object a line, and the same figures as TensorBoard's event files.

`tensorboard --logdir runs` shows the latter where TensorBoard is installed. Rank 0 writes both.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from preprocess.shared import json_files
from preprocess.shared.disk import REMEDIES
from preprocess.shared.files import write_atomically
from trainer.errors import UserError
from trainer.runs.formats import Line

TAIL = 512
"""Bytes before the place up to which a log was read that are compared when it is read further."""


class LogReader:
    """Reads a run's log, and at each further call only what is new in it.

    A last line without its end is left for the next call. A log that is no longer the one that was read, as
    after a run was continued, is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None
        self._offset = 0  # bytes of whole lines that were read
        self._tail = b""  # the last of them: an inode's number may be used again
        self.unreadable = 0
        """Lines of this log that could not be read so far."""

    def read(self, *, most: int = -1, to_end: bool = False) -> tuple[bool, list[dict[str, Any]]]:
        """Whether these lines begin the log anew, and the lines that are new.

        most: about so many bytes of them; -1: all. to_end: take a last line without its end too, if it can be
        read. Raises UserError when the file cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                file.seek(self._offset - len(self._tail))
                anew = (inode, file.read(len(self._tail))) != (self._inode, self._tail)
                if anew:
                    file.seek(0)
                    self._forget(inode)
                data = file.read(most)
                data += b"" if b"\n" in data else file.read()
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return True, []
        except OSError as error:
            raise UserError(
                f"The log {self._path} cannot be read ({error.strerror}): mend or remove it."
            ) from None
        size = data.rfind(b"\n") + 1
        texts, rest = data[:size].splitlines(), data[size:]
        self._offset += size
        self._tail = (self._tail + data[:size])[-TAIL:]
        lines = [_parsed(text) for text in texts if text.strip()]
        self.unreadable += lines.count(None)
        lines += [_parsed(rest)] if to_end else []
        return anew, [line for line in lines if line is not None]

    def _forget(self, inode: int | None = None) -> None:
        self._inode, self._offset, self._tail, self.unreadable = inode, 0, b"", 0


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line of the log; None for one that cannot be read."""
    try:
        return {**json_files.parse(text, Line, "the line")}
    except json_files.JsonError:
        return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; those that cannot be read are left out. Raises UserError."""
    return LogReader(path).read(to_end=True)[1]


def having(lines: Iterable[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The lines that have values of all these names."""
    return [line for line in lines if all(name in line for name in names)]


def unreadable_lines(count: int) -> str:
    """A clause on lines that were left out: "2 lines of metrics.jsonl could not be read"."""
    return f"{count} line{'s' if count != 1 else ''} of metrics.jsonl could not be read"


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
        """One line, with the time in seconds since 1970; its numbers go to TensorBoard too.

        Numbers that are not finite are left out: JSON has none.
        """
        now = round(time.time(), 3)
        if self.failure:
            return
        values = {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}
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
        remedy = REMEDIES.get(error.errno or 0, "mend that")
        return (
            f"The log {self._path} could not be written: {error.strerror}; {remedy} and start the same "
            "command again: it continues from the last checkpoint."
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
