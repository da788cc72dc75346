"""Interrupt a run in every way, again and again; it ends bit for bit as one left alone, its best included.

    make soak                                        100 interruptions, of 1, 2 and 4 ranks
    python -m tests.trainer.soak --times 12 --ranks 4 --seed 5

Compared are the SHA-256 of both towers' parameters and momenta after the last step and at the best epoch, the
order of all samples, and every line of the log but for times and speeds.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stores import make_tiny_store
from tests.terminal import on_terminal
from tests.test_failure import SMALL, descendants
from tests.trainer.dying import MOMENTS

FEW = 10  # steps that are waited for; 15 are an epoch
CHECKPOINT_EVERY = 4
FLAGS = (*SMALL, "--epochs", "100000", "--log-every", "1", "--checkpoint-every", str(CHECKPOINT_EVERY))
LIMIT = 120.0  # seconds for anything to happen


@dataclass
class Run:
    """The run that is interrupted."""

    ranks: int
    store: Path
    folder: Path
    chance: random.Random
    begun: float = 0.0
    """When the last start was."""

    def command(self, *more: str, module: tuple[str, ...] = ("trainer.run",)) -> list[str]:
        """The training command, as a user types it."""
        launcher = ["mpirun", "-n", str(self.ranks)] if self.ranks > 1 else []
        where = ("--store", str(self.store), "--run", str(self.folder))
        return [*launcher, sys.executable, "-m", *module, *where, *FLAGS, *more]

    @contextlib.contextmanager
    def started(self, *more: str, module: tuple[str, ...] = ("trainer.run",)) -> Any:
        """The command, in a session of its own; nothing of it is left at the end."""
        self.begun = time.time()
        with self.output.open("ab") as output:
            job = subprocess.Popen(
                self.command(*more, module=module), stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield job
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()

    @property
    def output(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.out")

    def text(self) -> str:
        """The end of what was printed."""
        return self.output.read_text(errors="replace")[-3000:]

    def steps(self, since: float = 0.0) -> int:
        """The last step in the log; `since`: how many were taken by a start after that time."""
        lines = log(self.folder, tail=1 << 16)
        last = max((line["step"] for line in lines), default=0)
        if not since:
            return last
        starts = [line["step"] for line in lines if "ranks" in line and line["time"] > since]
        return last - starts[-1] if starts else 0

    def wait_for_steps(self, job: subprocess.Popen[bytes]) -> None:
        """Until this start has taken some steps, and some part of one."""
        begin, goal = self.begun, self.chance.randrange(1, FEW)
        self.wait_until(job, lambda: self.steps(begin) >= goal)
        time.sleep(self.chance.uniform(0, 0.05))

    def wait_at_most(self, job: subprocess.Popen[bytes], seconds: float) -> None:
        """So long, or until this start has taken some steps: then it is no start any more."""
        until = time.monotonic() + seconds
        self.wait_until(job, lambda: time.monotonic() > until or self.steps(self.begun) >= FEW)

    def wait_until(self, job: subprocess.Popen[bytes], come: Callable[[], object]) -> None:
        until = time.monotonic() + LIMIT
        while not come():
            assert job.poll() is None, f"the job ended with {job.poll()}\n{self.text()}"
            assert time.monotonic() < until, f"nothing happens\n{self.text()}"
            time.sleep(0.002)

    def kill_a_rank(self, job: subprocess.Popen[bytes]) -> None:
        ranks = [p for p, what in descendants(job.pid) if "trainer.run" in what and "mpirun" not in what]
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(ranks or [job.pid]), signal.SIGKILL)

    def ends(self, job: subprocess.Popen[bytes], *codes: int) -> None:
        """The job ends by itself; `codes`: the ones that are right, else any but 0 and 75."""
        code = job.wait(timeout=LIMIT)
        right = code in codes if codes else code not in (0, 75)
        assert right, f"ended with {code}\n{self.text()}"
        assert not (self.folder / "complete").exists(), "an interrupted run calls itself complete"


def log(folder: Path, tail: int = 1 << 30) -> list[dict[str, Any]]:
    """The lines in the last bytes of a run's log but for those that are cut off."""
    lines = []
    with contextlib.suppress(OSError), (folder / "metrics.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - tail))
        for line in file.read().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def kill_in_a_step(run: Run) -> None:
    with run.started() as job:
        run.wait_for_steps(job)
        run.kill_a_rank(job)
        run.ends(job)


def kill_while_writing(run: Run) -> None:
    with run.started() as job:
        run.wait_until(job, lambda: next((run.folder / "checkpoints").glob(".step-*.partial"), None))
        time.sleep(run.chance.uniform(0, 0.01))
        run.kill_a_rank(job)
        run.ends(job)


def kill_in_start_up(run: Run) -> None:
    with run.started() as job:
        run.wait_at_most(job, run.chance.uniform(0.2, 6))
        run.kill_a_rank(job)
        run.ends(job)


def kill_at(moment: str) -> Callable[[Run], None]:
    """Rank 0 kills itself at a moment that is too short to be hit from outside."""

    def kill(run: Run) -> None:
        back = ("--resume", str(earlier(run))) if "set aside" in moment and earlier(run) else ()
        if "set aside" in moment and not back:
            return kill_in_a_step(run)
        once = any(part in moment for part in ("lock", "log", "configuration", "all there"))
        times = 1 if once else run.chance.randrange(1, 3)
        with run.started(*back, module=("tests.trainer.dying", moment, str(times))) as job:
            run.ends(job)
        return None

    return kill


def earlier(run: Run) -> Path | None:
    """A checkpoint before the last one."""
    found = sorted((run.folder / "checkpoints").glob("step-????????"))[:-1]
    return run.chance.choice(found) if found else None


def go_back(run: Run) -> None:
    """Continue from an earlier checkpoint, and be killed some steps later."""
    back = earlier(run)
    with run.started(*(("--resume", str(back)) if back else ())) as job:
        run.wait_at_most(job, run.chance.uniform(2, 8))
        run.kill_a_rank(job)
        run.ends(job)


def start_a_second_job(run: Run) -> None:
    """It is told what runs, and harms nothing; then the first one is killed."""
    with run.started() as job:
        run.wait_for_steps(job)
        second = subprocess.run(run.command(), capture_output=True, text=True, timeout=LIMIT, check=False)
        assert second.returncode == 1, second.stderr
        assert "is being trained by process" in second.stderr, second.stderr
        assert job.poll() is None, run.text()
        run.kill_a_rank(job)
        run.ends(job)


def ask_to_stop(run: Run) -> None:
    """SIGUSR1, SIGTERM, SIGHUP to one rank, or the file `stop`: saved, 75."""
    with run.started() as job:
        run.wait_for_steps(job)
        how = run.chance.choice([signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, None])
        ranks = [p for p, what in descendants(job.pid) if "trainer.run" in what and "mpirun" not in what]
        if how is None:
            (run.folder / "stop").touch()
        else:
            os.kill(run.chance.choice(ranks or [job.pid]), how)
        run.ends(job, 75)


def press_ctrl_c(run: Run) -> None:
    """On a terminal, at any moment from the import of torch on."""
    run.begun = time.time()
    with on_terminal(*run.command(), cwd=run.folder.parent) as terminal:
        terminal.wait_for(lambda: terminal.loads_torch(run.ranks))
        run.wait_at_most(terminal.job, run.chance.uniform(0, 8))
        terminal.ctrl_c()
        code = terminal.job.wait(timeout=120)
        assert code == 130, f"Ctrl-C ended with {code}\n{terminal.output}"
        assert terminal.all_end(), "processes are left"
        assert "Traceback" not in terminal.output, terminal.output


KINDS: dict[str, Callable[[Run], None]] = {
    "kill in a step": kill_in_a_step,
    "kill while a checkpoint is written": kill_while_writing,
    "kill in start-up": kill_in_start_up,
    "kill after going back": go_back,
    "second job, then a kill": start_a_second_job,
    "request to stop": ask_to_stop,
    "Ctrl-C on a terminal": press_ctrl_c,
    **{f"kill {moment}": kill_at(moment) for moment in MOMENTS},
}


def result(run: Path, steps: int) -> dict[str, Any]:
    """How a run ended: what must be the same however often it was interrupted."""
    folder = run / "checkpoints"
    best = (folder / "best").read_text()
    found: dict[str, Any] = {"best": best, "latest": (folder / "latest").read_text()}
    for name in (best, f"step-{steps:08d}"):
        for path in sorted((folder / name).glob("tower_*.safetensors")):
            found[f"{name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    found["samples"] = json.loads((folder / f"step-{steps:08d}" / "state.json").read_text())["samples"]
    changing = ("time", "images_per_second", "data_wait")
    lines = [{k: v for k, v in line.items() if k not in changing} for line in log(run) if "ranks" not in line]
    found["log"] = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    found["lines"] = len(lines)
    return found


def soak(ranks: int, kinds: list[str], store: Path, folder: Path, seed: int) -> None:
    """Raises AssertionError when a run that was interrupted ends otherwise than one that was not."""
    chance = random.Random(seed)
    alone = Run(ranks, store, folder / f"alone-{ranks}", chance)
    subject = Run(ranks, store, folder / f"interrupted-{ranks}", chance)
    for number, kind in enumerate(kinds, 1):
        KINDS[kind](subject)
        print(f"{ranks} ranks, {number} of {len(kinds)}: {kind}; step {subject.steps()}", flush=True)
    steps = subject.steps() + FEW
    for run in (subject, alone):
        command = run.command("--max-steps", str(steps))
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    expected, found = result(alone.folder, steps), result(subject.folder, steps)
    assert found == expected, f"{subject.folder} differs from {alone.folder}: {found} {expected}"
    hidden = list(subject.folder.rglob(".*"))
    assert not hidden, f"left over: {hidden}"
    print(f"{ranks} ranks: the same bytes after {len(kinds)} interruptions and {steps} steps", flush=True)


def draw(times: int, seed: int) -> list[str]:
    """So many kinds in a random order, each as often as any other, give or take one."""
    chance = random.Random(seed)
    kinds = [kind for _ in range(-(-times // len(KINDS))) for kind in chance.sample(list(KINDS), len(KINDS))]
    return kinds[:times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="interruptions, over all worlds")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    kinds = draw(arguments.times, arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        store = make_tiny_store(Path(name))
        for place, ranks in enumerate(arguments.ranks):
            mine = kinds[place :: len(arguments.ranks)]
            soak(ranks, mine, store, Path(name), arguments.seed + place)
    for kind, count in sorted(collections.Counter(kinds).items()):
        print(f"{count:4} {kind}")


if __name__ == "__main__":
    main()
