"""The batch scripts as they are, on a real SLURM of two nodes.

Time-outs only end what hangs. Nothing here is decided by speed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.launch import NETWORK, ranks, run
from tests.slurm.private import Slurm
from trainer.runs.log import read_log

SMALL = (*NETWORK, "--batch-size", "16", "--no-figures")
MPIRUN = "mpirun -n $SLURM_NTASKS"
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


def until(
    condition: Callable[[], object], what: str | Callable[[], str], logs: Path, seconds: float = 240
) -> None:
    """Wait for a condition; what has been logged is shown when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            what = what if isinstance(what, str) else what()
            raise AssertionError(f"{what}: not within {seconds} s\n{read(logs)}")
        time.sleep(0.2)


def read(logs: Path) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()[-8000:]}" for log in sorted(logs.glob("*.log")))


def ended(slurm: Slurm, job: str, logs: Path) -> str:
    """Wait for a job's end; returns its state."""
    return reaches(slurm, job, OVER, logs)


def reaches(slurm: Slurm, job: str, states: Sequence[str], logs: Path) -> str:
    """Wait until a job is in one of these states; returns which."""
    found = ""

    def there() -> bool:
        nonlocal found
        found = slurm.job(job)["JobState"]
        return found in states

    until(there, lambda: f"{found}, not {' or '.join(states)}, is job {job}\n{slurm.logs()}", logs)
    return found


def test_preprocessing_training_and_evaluation_follow_each_other_over_two_nodes(slurm, workplace):
    imagenet = ("--train", "60", "--val", "30")
    made = run("python", "-m", "preprocess.miniature", "data/imagenet", *imagenet, cwd=workplace)
    assert made.returncode == 0, made.stdout + made.stderr
    text = slurm(
        *("cluster/submit.sh", *TWO_NODES, "--", *SMALL, "--epochs", "2"), cwd=workplace, RUN="runs/chain"
    )
    jobs = dict(line.replace(":", "").split()[::2][:2] for line in text.splitlines()[:3])
    logs = workplace / "logs"
    states = {name: ended(slurm, job, logs) for name, job in jobs.items()}
    assert states == dict.fromkeys(("preprocess", "train", "evaluate"), "COMPLETED"), read(logs)
    assert (workplace / "runs" / "chain" / "complete").read_text() == "8 steps\n"  # 2 * ceil(60 / 16)
    assert "4 ranks, 2 pairs of towers" in read(logs)
    result = json.loads((workplace / "runs" / "chain" / "ten-crop.json").read_text())
    assert (result["images"], result["views"]) == (30, 10)


def test_an_array_trains_a_network_a_seed_and_their_outputs_are_averaged(slurm, workplace, tiny_store):
    one = ("--ntasks-per-node=1", "--parsable")
    settings = {"cwd": workplace, "STORE": str(tiny_store), "RUN": "runs/three"}
    steps = ("--epochs", "1", "--max-steps", "2")
    array = slurm("sbatch", *one, "--array=1-3", "cluster/train.sbatch", *SMALL, *steps, **settings).strip()
    after = (f"--dependency=afterok:{array}", "cluster/evaluate.sbatch")
    job = slurm("sbatch", *one, *after, **settings).strip()
    assert ended(slurm, job, workplace) == "COMPLETED", read(workplace)
    folders = [workplace / "runs" / "three" / f"seed-{seed}" for seed in (1, 2, 3)]
    assert len({towers(folder)[0] for folder in folders}) == 3
    *each, together = json.loads((workplace / "runs" / "three" / "ten-crop.json").read_text())
    assert len(each) == 3
    assert (together["images"], together["views"]) == (30, 10)
    assert together["ensemble"] == [network["checkpoint"] for network in each]


def test_a_partition_that_refuses_the_account_is_a_sentence_and_leaves_nothing_in_the_queue(slurm, workplace):
    with pytest.raises(AssertionError, match="error: SLURM does not take this job"):
        slurm("cluster/submit.sh", "--partition=paid", "--account=nobody", cwd=workplace)
    assert "train" not in slurm("squeue", "--noheader", "--format=%j")


def endless(
    slurm: Slurm, workplace: Path, store: Path, launcher: str, *options: str, run: str, **environment: str
) -> str:
    """Submit a training that ends by itself only when it has been started again; returns the job's number
    once it has taken a step."""
    wrapper = workplace / "launcher"
    wrapper.write_text(ENDS_WHEN_STARTED_AGAIN.replace("LAUNCHER", launcher))
    wrapper.chmod(0o755)
    job = slurm(
        *("sbatch", "--parsable", *options, "--ntasks-per-node=2", "cluster/train.sbatch", *SMALL),
        *("--epochs", "100000", "--log-every", "1", "--checkpoint-every", "5"),
        cwd=workplace,
        STORE=str(store),
        RUN=f"runs/{run}",
        LAUNCHER=str(wrapper),
        **environment,
    ).strip()
    latest = workplace / "runs" / run / "checkpoints" / "latest"
    until(latest.exists, "a first checkpoint", workplace)
    return job


def start_again(slurm: Slurm, job: str, logs: Path) -> None:
    """Let a job that has been queued again start at once: of itself it would wait for two minutes."""
    until(lambda: slurm.job(job)["Restarts"] == "1", "the requeue", logs)
    reaches(slurm, job, ["PENDING"], logs)
    # Without cgroups an srun can outlive its node, and would then cancel the step of the same number.
    until(lambda: not slurm.processes(SLURM_JOB_ID=job), "the end of all processes", logs)
    # Some seconds: SLURM takes a start in the second of the requeue for the one it has just ended.
    begin(slurm, job, "now+4seconds", logs)


def begin(slurm: Slurm, job: str, when: str, logs: Path) -> None:
    """Set the time at which a pending job may start."""

    def accepted() -> bool:
        try:
            slurm("scontrol", "update", f"JobId={job}", f"StartTime={when}")
        except AssertionError:  # "already finished", as long as it is still completing on its nodes
            return False
        return True

    until(accepted, f"its new start, {when}", logs)


def last_saved(folder: Path) -> int:
    return int((folder / "checkpoints" / "latest").read_text().removeprefix("step-"))


def towers(folder: Path) -> list[str]:
    """Hashes of the newest checkpoint's two towers: parameters and momenta."""
    newest = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text().strip()
    return [
        hashlib.sha256((newest / f"tower_{name}.safetensors").read_bytes()).hexdigest() for name in ("a", "b")
    ]


def test_a_signalled_job_saves_is_queued_again_and_ends_with_the_bytes_of_an_undisturbed_one(
    slurm, workplace, tiny_store
):
    job = endless(slurm, workplace, tiny_store, MPIRUN, "--nodes=1", run="signalled")
    slurm("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@120 does before the time limit
    until(lambda: "queueing this job again" in read(workplace), "the saving", workplace)
    folder = workplace / "runs" / "signalled"
    saved = last_saved(folder)
    start_again(slurm, job, workplace)
    steps = ("--epochs", "100000", "--max-steps", str(saved + 2))
    undisturbed = ranks(
        *(2, "-m", "trainer.run", "--store", str(tiny_store), "--run", "runs/undisturbed", *SMALL, *steps),
        cwd=workplace,
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert ended(slurm, job, workplace) == "COMPLETED", read(workplace)
    assert f"continuing from step {saved}" in read(workplace)
    assert (folder / "complete").read_text() == f"{saved + 2} steps\n"
    logged = [line["step"] for line in read_log(folder / "metrics.jsonl") if "loss" in line]
    assert logged == list(range(1, saved + 3))
    assert towers(folder) == towers(workplace / "runs" / "undisturbed")


def test_a_job_that_was_queued_often_enough_fails_and_its_run_goes_on_by_hand(slurm, workplace, tiny_store):
    job = endless(slurm, workplace, tiny_store, MPIRUN, "--nodes=1", run="capped", MAX_REQUEUES="0")
    slurm("scancel", "--batch", "--signal=USR1", job)
    assert ended(slurm, job, workplace) == "FAILED"
    assert slurm.job(job)["Restarts"] == "0"
    by_hand = "RUN=runs/capped sbatch cluster/train.sbatch"
    assert f"is saved but not complete, after 0 requeues; to continue: {by_hand}\n" in read(workplace)
    saved = last_saved(workplace / "runs" / "capped")
    setting, *command = by_hand.split()
    command += ["--store", str(tiny_store), "--max-steps", str(saved + 1)]
    job = slurm("env", setting, *command, cwd=workplace).split()[-1]
    assert ended(slurm, job, workplace) == "COMPLETED", read(workplace)
    assert f"continuing from step {saved}" in read(workplace)


def test_a_job_makes_place_for_an_urgent_one_and_goes_on_afterwards(slurm, workplace, tiny_store):
    job = endless(slurm, workplace, tiny_store, "srun --mpi=pmi2", "--nodes=1", run="preempted")
    everything = ("--nodes=2", "--exclusive", "--wrap=true")
    urgent = slurm("sbatch", "--parsable", "--partition=urgent", *everything, cwd=workplace).strip()
    assert ended(slurm, urgent, workplace) == "COMPLETED"
    assert "queueing this job again" in read(workplace)
    saved = last_saved(workplace / "runs" / "preempted")
    start_again(slurm, job, workplace)
    assert ended(slurm, job, workplace) == "COMPLETED", read(workplace)
    assert f"continuing from step {saved}" in read(workplace)


def test_srun_itself_starts_the_ranks_of_open_mpi(slurm, workplace, openmpi, tiny_store):
    try:
        slurm("srun", "--mpi=pmix", "true")
    except AssertionError as reason:
        pytest.skip(f"this SLURM has no PMIx: {reason}")
    (workplace / ".venv").unlink()
    (workplace / ".venv").symlink_to(openmpi)
    job = endless(slurm, workplace, tiny_store, "srun --mpi=pmix", "--nodes=2", run="pmix")
    slurm("scancel", "--batch", "--signal=USR1", job)
    until(lambda: "queueing this job again" in read(workplace), "the saving", workplace)
    saved = last_saved(workplace / "runs" / "pmix")
    start_again(slurm, job, workplace)
    assert ended(slurm, job, workplace) == "COMPLETED", read(workplace)
    assert read(workplace).count("4 ranks, 2 pairs of towers") == 2
    assert f"continuing from step {saved}" in read(workplace)


@pytest.mark.parametrize("node", ["n2", "n1"], ids=["a further node", "the batch script's own"])
def test_a_node_that_dies_ends_the_job_which_goes_on_from_its_checkpoint(node, slurm, workplace, tiny_store):
    job = endless(slurm, workplace, tiny_store, MPIRUN, "--nodes=2", run="bereft")
    slurm.kill_node(node)
    if node == "n2":
        until(lambda: "no longer answers: queueing this job again" in read(workplace), "the end", workplace)
    # What slurmctld finds out by itself after SlurmdTimeout.
    slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=died")
    reaches(slurm, job, ["PENDING"], workplace)
    # When the other node was done before this one was known to be down, SLURM would start the job as soon as
    # the node is back, and the news of its first end would end it a second time.
    begin(slurm, job, "now+1hour", workplace)
    slurm.start_node(node)
    slurm.resume(node)
    # Ranks of the node that lives may still be completing a checkpoint.
    until(lambda: not slurm.processes(SLURM_JOB_ID=job), "the end of all processes", workplace)
    saved = last_saved(workplace / "runs" / "bereft")
    start_again(slurm, job, workplace)
    assert ended(slurm, job, workplace) == "COMPLETED", read(workplace)
    assert f"continuing from step {saved}" in read(workplace)


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ("--ntasks=3", "error: 3 tasks on 2 node(s)"),
        ("--ntasks-per-node=1", "error: 2 tasks on 2 node(s)"),
    ],
    ids=["odd", "too few"],
)
def test_tasks_that_cannot_be_paired_are_a_sentence_in_the_log(tasks, sentence, slurm, workplace):
    job = slurm("sbatch", "--parsable", "--nodes=2", tasks, "cluster/train.sbatch", cwd=workplace).strip()
    assert ended(slurm, job, workplace) == "FAILED"
    assert sentence in read(workplace)
    assert slurm.job(job)["Restarts"] == "0"
