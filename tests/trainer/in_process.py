"""Small runs inside the test's own process: what `python -m trainer.run` does, without a new Python."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

from tests.launch import NETWORK
from trainer import run
from trainer.runs.log import read_log

SMALL = (*NETWORK, "--batch-size", "4", "--init", "scaled", "--precision", "float32", "--no-figures")


def train(store: Path, folder: Path, *flags: str) -> int:
    """One start of a run; returns its exit code. Signal handlers are put back afterwards."""
    signals = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in signals}
    try:
        run.main(["--store", str(store), "--run", str(folder), *SMALL, *flags])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    raise AssertionError("the command did not leave with an exit code")


def checkpoints(folder: Path) -> list[str]:
    """Names of all checkpoints of a run, the steps alone."""
    return [path.name.removeprefix("step-0000") for path in sorted((folder / "checkpoints").glob("step-*"))]


def marker(folder: Path, name: str) -> int:
    """The step that `latest` or `best` names."""
    return int((folder / "checkpoints" / name).read_text().removeprefix("step-"))


def towers(folder: Path, step: int) -> list[str]:
    """SHA-256 of both towers' files, parameters and momenta, after so many steps."""
    saved = folder / "checkpoints" / f"step-{step:08d}"
    return [hashlib.sha256((saved / f"tower_{t}.safetensors").read_bytes()).hexdigest() for t in "ab"]


def logged(folder: Path, name: str) -> list[int]:
    """The steps of the log's lines that hold `name`."""
    return [line["step"] for line in read_log(folder / "metrics.jsonl") if name in line]
