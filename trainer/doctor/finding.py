"""What a check says, and how something is tried that may crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Literal

SECONDS = 60  # for one process on a busy machine; all of them take about three on two idle cores

ROOT = Path(__file__).parents[2]

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    what: str
    says: str
    remedy: str = ""
    """What to do about it; empty where all is well."""


def built(extension: str) -> bool:
    """Whether a C extension, by its dotted name, was compiled. It is looked for and not imported."""
    path = ROOT / extension.replace(".", "/")
    return any(path.with_name(path.name + suffix).exists() for suffix in EXTENSION_SUFFIXES)


@dataclass(frozen=True)
class Tried:
    """What came of a process: the JSON values that it printed, a line each, and how it failed, if it did."""

    values: list[Any]
    failure: str
    """Its last words on stderr, or else how it ended; empty if all went well."""
    ending: str = ""
    """How it ended, where that was badly: by a signal, or with a code."""


def attempt(*command: str, script: str) -> Tried:
    """Run `command... python -c script`. Whatever happens to it is told, never raised."""
    # Nobody's ranks: a doctor that was itself started by a launcher must not join its world.
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "PMIX_", "OMPI_COMM_WORLD_"))}
    try:
        process = subprocess.Popen(
            [*command, sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=ours,
            start_new_session=True,  # so that a launcher that hangs ends with its ranks
        )
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Tried([], f"no answer within {SECONDS} seconds")
    except OSError as error:
        return Tried([], f"{command[0] if command else sys.executable}: {error.strerror}")
    values = []
    for line in out.splitlines():
        try:
            values.append(json.loads(line))
        except ValueError:  # some libraries greet
            continue
    if process.returncode == 0:
        return Tried(values, "")
    words = [line.strip() for line in err.splitlines() if line.strip()]
    how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
    return Tried(values, words[-1] if words else how, how)
