"""The training command in a process that kills itself at a moment too short to be hit from outside.

    python -m tests.trainer.dying MOMENT COUNT [FLAGS of trainer.run]

Rank 0 dies of SIGKILL at the COUNT-th time that the moment comes; every other rank trains as it always does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer import run
from trainer.evaluation import validation
from trainer.runs import checkpoint_writer, going_back, lock, log, run_folder

MOMENTS = {
    "between a checkpoint's renaming and `latest`": (
        checkpoint_writer,
        "write_atomically",
        "before",
        "latest",
    ),
    "after `latest` was named": (checkpoint_writer, "write_atomically", "after", "latest"),
    "between an error and `best`": (going_back, "set_markers", "before", ""),
    "before an error is recorded": (checkpoint_writer, "write_atomically", "before", "validation.json"),
    "before `sound` is named": (checkpoint_writer, "write_atomically", "before", "sound"),
    "while the log is put in order": (log, "write_atomically", "before", "metrics.jsonl"),
    "before the configuration is written": (run_folder, "write_atomically", "before", "config.json"),
    "before the manifest": (checkpoint_writer, "_write_file", "before", "manifest.json"),
    "in validation": (validation, "evaluation_batches", "after", ""),
    "in the lock, before it says whose it is": (lock.RunLock, "_write", "before", ""),
    "in the lock, after it": (lock.RunLock, "_write", "after", ""),
    "before a checkpoint is set aside": (Path, "rename", "before", "set-aside"),
    "after a checkpoint is set aside": (Path, "rename", "after", "set-aside"),
    "before what was set aside is all there": (going_back, "_take_in", "before", ""),
}


AT_THE_START = {"between an error and `best`": 2}
"""How often a moment comes before the first step of a run that goes on."""


def die_at(moment: str, count: int) -> None:
    """Kill this process at that moment."""
    where, name, when, part = MOMENTS[moment]
    whole: Callable[..., Any] = getattr(where, name)
    count += AT_THE_START.get(moment, 0)
    seen = 0

    def kills(*arguments: Any, **named: Any) -> Any:
        nonlocal seen
        meant = any(part in str(argument) for argument in arguments if isinstance(argument, str | Path))
        seen += meant or not part
        mine = seen == count and (meant or not part)
        if mine and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **named)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(where, name, kills)


def main() -> None:
    moment, count, *flags = sys.argv[1:]
    if os.environ.get("PMI_RANK", "0") == "0":
        die_at(moment, int(count))
    run.main(flags)


if __name__ == "__main__":
    main()
