"""The trainer's commands inside the test's own process: a new Python would load torch for seconds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import signal
import subprocess
import threading
from pathlib import Path

from tests.launch import NETWORK, exit_code
from trainer import evaluate, export, features, import_weights, predict, run
from trainer.experiments import __main__ as experiments
from trainer.figures import __main__ as figures
from trainer.runs.log import read_log

SMALL = (*NETWORK, "--batch-size", "4", "--init", "scaled", "--precision", "float32", "--no-figures")
PROGRAMS = {
    **{
        p.__name__.removeprefix("trainer."): p
        for p in (evaluate, export, features, import_weights, predict, run)
    },
    "experiments": experiments,
    "figures": figures,
}
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)


def train(store: Path, folder: Path, *flags: str) -> int:
    """One start of a run; returns its exit code."""
    return _exit_code("run", ["--store", str(store), "--run", str(folder), *SMALL, *flags])


def command(name: str, *flags: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m trainer.NAME FLAGS` in the folder `cwd`, with its exit code and output."""
    words = list(map(str, flags))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _exit_code(name, words)
    return subprocess.CompletedProcess([name, *words], code, out.getvalue(), err.getvalue())


def _exit_code(name: str, words: list[str]) -> int:
    """Run a command. Handlers of signals and of failing threads are put back afterwards."""
    handlers, hook = {number: signal.getsignal(number) for number in SIGNALS}, threading.excepthook
    try:
        return exit_code(lambda: PROGRAMS[name].main(words))
    finally:
        threading.excepthook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
