"""Kill preprocessing at random moments, then run the same command again.

Usage: python -m tests.preprocess.soak [--kills N] [--seed S]    (20 kills by default: minutes)
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.preprocess.helpers import ROOT, TIMEOUT, content, draw, encode, settings, snakemake

VICTIMS = ("worker", "scheduler", "snakemake")
CLASSES, IMAGES = ("n01", "n02"), 400


def source(root: Path, images: int) -> Path:
    """Enough images for some seconds of work."""
    for number in range(images):
        folder = root / "train" / CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.JPEG").write_bytes(encode(draw(number, 700, 600)))
    return root


def victims(group: int, kind: str) -> list[int]:
    """The processes of one kind in a session, recognised by their command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) != group:
                continue
            words = folder.joinpath("cmdline").read_bytes().decode().split("\0")
        except (OSError, ProcessLookupError):
            continue
        text = " ".join(words)
        is_kind = {
            "worker": "spawn_main" in text,
            "scheduler": "preprocess.shard" in words,
            "snakemake": "snakemake" in words,
        }
        if is_kind[kind]:
            found.append(int(folder.name))
    return found


def finished_shards(store: Path) -> dict[Path, int]:
    """When each shard that has its record was last written."""
    records = (store / ".preprocess" / "records").glob("*/*.json")
    shards = (store / r.parent.name / "images/c" / str(int(r.stem)) / "0/0/0" for r in records)
    return {path: path.stat().st_mtime_ns for path in shards if path.exists()}


def kill_once(imagenet: Path, store: Path, victim: str, shards: int, moment: float) -> str:
    """Start the command, kill one process when so many shards are made and some time has passed.

    Returns:
        The command's output, "" if there was no such process any more.
    """
    command = [sys.executable, "-m", "snakemake", "preprocess", *settings(imagenet, store)]
    run = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + TIMEOUT
    while len(finished_shards(store)) < shards or not victims(run.pid, victim):
        if run.poll() is not None or time.monotonic() > end:
            break
        time.sleep(0.01)
    time.sleep(moment)
    hit = victims(run.pid, victim)
    if hit:
        os.kill(hit[0], signal.SIGKILL)
    output, _ = run.communicate(timeout=TIMEOUT)
    return output if hit else ""


def soak(folder: Path, kills: int, seed: int, images: int = IMAGES) -> int:
    """Kill so many times, each followed by the plain command; return how many processes were hit.

    Raises:
        AssertionError: a store differs from the undisturbed one, or a finished shard was written again.
    """
    chance = random.Random(seed)
    imagenet = source(folder / "imagenet", images)
    whole = folder / "whole.zarr"
    done = snakemake(*settings(imagenet, whole))
    assert done.returncode == 0, done.stderr
    every = finished_shards(whole)
    hits = 0
    for number in range(kills):
        store = folder / f"{number}.zarr"
        victim = VICTIMS[number % len(VICTIMS)]
        output = kill_once(imagenet, store, victim, chance.randrange(len(every)), chance.uniform(0, 0.3))
        hits += bool(output)
        before = finished_shards(store)
        again = snakemake(*settings(imagenet, store))
        assert again.returncode == 0, again.stderr
        assert content(store) == content(whole), f"kill {number} of the {victim}"
        after = finished_shards(store)
        assert {path: after[path] for path in before} == before, f"kill {number} of the {victim}"
        print(f"kill {number + 1}: {victim}, {len(before)} of {len(after)} shards were finished", flush=True)
    return hits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        print(
            soak(Path(scratch), arguments.kills, arguments.seed),
            "processes were killed; all stores are equal",
        )
