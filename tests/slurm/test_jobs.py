"""The batch scripts as they are, on a real SLURM of two nodes.

Time-outs only end what hangs. Nothing here is decided by speed.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch import run
from tests.slurm.private import Slurm
from trainer.metrics import read_log

pytestmark = pytest.mark.timeout(600)

SMALL = ("--filters", "6", "8", "12", "12", "8", "--hidden", "32", "--batch-size", "16")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=2")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
# The first start never ends by itself, so that its signal always comes in mid-run; the next one ends two
# steps after it. Under bash's exec the launcher keeps the process that the batch script signals.
ENDS_WHEN_STARTED_AGAIN = """#!/usr/bin/env bash
if [[ -n ${SLURM_RESTART_COUNT:-} ]]; then
    latest=$(cat "$RUN/checkpoints/latest")
    set -- "$@" --max-steps $((10#${latest#step-} + 2))
fi
exec LAUNCHER "$@"
"""


def until(condition: Callable[[], object], what: str, logs: Path, seconds: float = 240) -> None:
    """Wait for a condition; what has been logged is shown when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s\n{read(logs)}")
        time.sleep(0.1)


def read(logs: Path) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()[-4000:]}" for log in sorted(logs.glob("*.log")))


def ended(slurm: Slurm, job: str, logs: Path) -> str:
    """Wait for a job's end; returns its state."""
    until(lambda: slurm.job(job)["JobState"] in OVER, f"the end of job {job}", logs)
    return slurm.job(job)["JobState"]


def test_preprocessing_training_and_evaluation_follow_each_other_over_two_nodes(slurm, workplace):
    imagenet = ("--train", "60", "--val", "30")
    made = run("python", "-m", "preprocess.miniature", "data/imagenet", *imagenet, cwd=workplace)
    assert made.returncode == 0, made.stdout + made.stderr
    said = slurm(
        *("cluster/submit.sh", *TWO_NODES, "--", *SMALL, "--epochs", "2"), cwd=workplace, RUN="runs/chain"
    )
    jobs = dict(line.replace(":", "").split()[::2][:2] for line in said.splitlines()[:3])
    logs = workplace / "logs"
    states = {name: ended(slurm, job, logs) for name, job in jobs.items()}
    assert states == dict.fromkeys(("preprocess", "train", "evaluate"), "COMPLETED"), read(logs)
    assert (workplace / "runs" / "chain" / "complete").read_text() == "8 steps\n"  # 2 * ceil(60 / 16)
    assert "4 ranks, 2 pairs of towers" in read(logs)
    result = json.loads((workplace / "runs" / "chain" / "ten-crop.json").read_text())
    assert (result["images"], result["views"]) == (30, 10)


@pytest.mark.parametrize(
    ("launcher", "nodes"), [("mpirun -n $SLURM_NTASKS", 1), ("srun --mpi=pmi2", 2)], ids=["mpirun", "srun"]
)
def test_a_job_that_is_signalled_saves_is_queued_again_and_ends_complete(
    launcher, nodes, slurm, workplace, tiny_store
):
    wrapper = workplace / "launcher"
    wrapper.write_text(ENDS_WHEN_STARTED_AGAIN.replace("LAUNCHER", launcher))
    wrapper.chmod(0o755)
    job = slurm(
        *("sbatch", "--parsable", f"--nodes={nodes}", "--ntasks-per-node=2", "cluster/train.sbatch", *SMALL),
        *("--epochs", "100000", "--log-every", "1"),
        cwd=workplace,
        STORE=str(tiny_store),
        RUN="runs/signalled",
        LAUNCHER=str(wrapper),
    ).strip()
    folder = workplace / "runs" / "signalled"
    metrics = folder / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text(), "a first step", workplace)
    slurm("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@120 does before the time limit
    until(lambda: "queueing this job again" in read(workplace), "the saving", workplace)
    saved = int((folder / "checkpoints" / "latest").read_text().removeprefix("step-"))
    until(lambda: slurm.job(job)["Restarts"] == "1", "the requeue", workplace)
    until(lambda: slurm.job(job)["JobState"] == "PENDING", "the queue", workplace)
    # Of itself the job would wait for two minutes. Some seconds it must: SLURM takes a start in the second of
    # the requeue for the one that it has just ended.
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+4seconds")
    assert ended(slurm, job, workplace) == "COMPLETED", read(workplace)
    assert f"going on from step {saved}" in read(workplace)
    assert (folder / "complete").read_text() == f"{saved + 2} steps\n"
    steps = [line["step"] for line in read_log(metrics) if "loss" in line]
    assert steps == list(range(1, saved + 3))


def test_an_odd_number_of_tasks_on_a_node_is_a_sentence_in_the_log(slurm, workplace):
    job = slurm(
        *("sbatch", "--parsable", "--nodes=2", "--ntasks=3", "cluster/train.sbatch"), cwd=workplace
    ).strip()
    assert ended(slurm, job, workplace) == "FAILED"
    assert "error: 3 tasks on 2 node(s)" in read(workplace)
    assert slurm.job(job)["Restarts"] == "0"
