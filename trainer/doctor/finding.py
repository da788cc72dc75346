"""The result of a check, and how to run code that may crash in a process of its own."""

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

SECONDS = 60  # limit for one process on a busy machine; all of them take about 3 s on two idle cores

ROOT = Path(__file__).parents[2]

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    """What was checked, such as "MPI"."""
    text: str
    remedy: str = ""
    """What the user should do; empty where nothing is wrong."""


def built(extension: str) -> bool:
    """Whether a C extension, by its dotted name, was compiled; by its file, without importing it."""
    path = ROOT / extension.replace(".", "/")
    return any(path.with_name(path.name + suffix).exists() for suffix in EXTENSION_SUFFIXES)


@dataclass(frozen=True)
class Outcome:
    """The result of a process: the JSON values that it printed, one a line, and its failure, if any."""

    values: list[Any]
    failure: str
    """Its last line on stderr, else the signal or exit code; empty if it succeeded."""
    ending: str = ""
    """The signal or exit code of a failed process."""


def attempt(*command: str, script: str) -> Outcome:
    """Run `command... python -c script`. Errors are in the outcome; none is raised."""
    # Without a launcher's variables: a doctor that mpirun started must not join that MPI world.
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "PMIX_", "OMPI_COMM_WORLD_"))
    }
    try:
        process = subprocess.Popen(
            [*command, sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # a launcher that hangs is killed together with its ranks
        )
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome([], f"no answer within {SECONDS} seconds")
    except OSError as error:
        return Outcome([], f"{command[0] if command else sys.executable}: {error.strerror}")
    values = []
    for line in out.splitlines():
        try:
            values.append(json.loads(line))
        except ValueError:  # some libraries print a greeting
            continue
    if process.returncode == 0:
        return Outcome(values, "")
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    ending = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
    return Outcome(values, lines[-1] if lines else ending, ending)
