"""Kill a random rank at a random moment, again and again; the run must end bit for bit as one left alone.

    make soak                                           30 kills of 2 ranks, then of 4
    python -m tests.trainer.soak --kills 5 --ranks 4

Every second kill waits for a checkpoint that is being written. Compared are the SHA-256 of both towers'
parameters and momenta, and of the order of all samples.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

from tests.stores import make_tiny_store
from tests.test_failure import SMALL, descendants

STEPS_A_KILL = 20
CHECKPOINT_EVERY = 4
FLAGS = (*SMALL, "--epochs", "100000")


def command(ranks: int, store: Path, run: Path, steps: int) -> list[str]:
    """The training command of all of these runs."""
    program = [sys.executable, "-m", "trainer.run", "--store", str(store), "--run", str(run), *FLAGS]
    program += ["--log-every", "1", "--checkpoint-every", str(CHECKPOINT_EVERY), "--max-steps", str(steps)]
    return ["mpirun", "-n", str(ranks), *program]


def result(run: Path, steps: int) -> dict[str, str]:
    """What the last checkpoint holds, as checksums."""
    last = run / "checkpoints" / f"step-{steps:08d}"
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(last.glob("*.safetensors"))}
    return found | {"samples": json.loads((last / "state.json").read_text())["samples"]}


def steps_done(run: Path) -> int:
    """The last step in the run's log."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    for line in reversed(lines):
        with contextlib.suppress(ValueError):  # the last one may be half written
            return int(json.loads(line)["step"])
    return 0


def kill_once(job: subprocess.Popen[bytes], run: Path, moment: random.Random, writing: bool) -> str | None:
    """Kill one rank; returns when, or None if the job came to its end before."""
    before, after = steps_done(run), moment.randrange(STEPS_A_KILL)
    while job.poll() is None:
        partial = next((run / "checkpoints").glob(".step-*.partial"), None) if writing else None
        moved = steps_done(run) - before
        if moved >= 0 and (partial or (not writing and moved >= after)):
            time.sleep(moment.uniform(0, 0.01 if writing else 0.2))
            found = [p for p, what in descendants(job.pid) if "trainer.run" in what and "mpirun" not in what]
            if not found:
                continue
            victim = moment.randrange(len(found))
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[victim], signal.SIGKILL)
            where = f"while {partial.name} was written" if partial else f"after step {steps_done(run)}"
            return f"rank {victim} {where}"
        time.sleep(0.002)
    return None


def soak(ranks: int, kills: int, store: Path, folder: Path, seed: int) -> None:
    """Raises AssertionError when a run that was killed ends otherwise than one that was not."""
    moment, steps = random.Random(seed), STEPS_A_KILL * (kills + 1)
    alone, killed = folder / f"alone-{ranks}", folder / f"killed-{ranks}"
    subprocess.run(command(ranks, store, alone, steps), check=True, capture_output=True, timeout=600)
    done = 0
    while done < kills:
        with (folder / "output").open("ab") as output:
            job = subprocess.Popen(command(ranks, store, killed, steps), stdout=output, stderr=output)
        when = kill_once(job, killed, moment, writing=done % 2 == 1)
        code = job.wait(timeout=60)
        assert when is not None, f"the job ended with {code} before it was killed\n" + tail(folder / "output")
        assert code != 0, f"killed {when}, and the job ended with 0"
        assert not (killed / "complete").exists(), f"killed {when}, and the run calls itself complete"
        done += 1
        print(f"{ranks} ranks, kill {done} of {kills}: {when}", flush=True)
    subprocess.run(command(ranks, store, killed, steps), check=True, capture_output=True, timeout=600)
    expected, found = result(alone, steps), result(killed, steps)
    assert found == expected, f"{killed} differs from {alone}: {found} {expected}"
    print(f"{ranks} ranks: the same bytes after {kills} kills and {steps} steps")


def tail(path: Path) -> str:
    """The end of a file."""
    return path.read_text(errors="replace")[-3000:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as name:
        store = make_tiny_store(Path(name))
        for ranks in arguments.ranks:
            soak(ranks, arguments.kills, store, Path(name), arguments.seed)


if __name__ == "__main__":
    main()
