"""From the command to the end of the first step, with warm caches: the paper's network, a small store."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.harness import Contender, Measure, Row
from tests.benchmarks.pictures import small_store
from tests.benchmarks.processes import TIMEOUT
from tests.benchmarks.settings import Settings
from tests.launch import ROOT

LAUNCHERS = {"alone": (), "2 ranks": ("mpirun", "-n", "2"), "8 ranks": ("mpirun", "-n", "8")}
LOADS = (sys.executable, "-c", "import torch")


def rows(settings: Settings, scratch: Path) -> list[Row]:
    store = settings.store or small_store(settings, scratch)
    return [
        Row(
            stage=f"start {name}",
            unit="1/min",
            ours=Contender(
                "python -m trainer.run, until the log has the first step",
                first_step(launcher, store, scratch / f"start-{name}"),
            ),
            limit=Contender(
                "the same number of processes that import torch, and end", ended(*launcher, *LOADS)
            ),
        )
        for name, launcher in LAUNCHERS.items()
    ]


def first_step(launcher: tuple[str, ...], store: Path, run: Path) -> Measure:
    """Make a measure of starts a minute. The first one, which compiles, is not counted."""
    started = 0

    def once() -> float:
        nonlocal started
        started += 1
        folder = run.with_name(f"{run.name}-{started}")
        flags = ("--store", str(store), "--run", str(folder), "--log-every", "1", "--no-figures")
        begin = time.perf_counter()
        job = subprocess.Popen(
            [*launcher, sys.executable, "-m", "trainer.run", *flags],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not _has_step(folder / "metrics.jsonl"):
                if job.poll() is not None or time.perf_counter() - begin > TIMEOUT:
                    raise RuntimeError(f"no first step: {' '.join(map(str, job.args))}")
                time.sleep(0.01)
            return time.perf_counter() - begin
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()

    def measure() -> float:
        if not started:
            once()
        return 60 / once()

    return measure


def _has_step(log: Path) -> bool:
    return log.exists() and '"loss"' in log.read_text()


def ended(*command: str) -> Measure:
    """Make a measure of the command's runs a minute."""

    def measure() -> float:
        begin = time.perf_counter()
        subprocess.run(command, check=True, timeout=TIMEOUT)
        return 60 / (time.perf_counter() - begin)

    return measure
