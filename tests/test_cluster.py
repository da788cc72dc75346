"""The decisions of the batch scripts, run with a fake SLURM and a fake mpirun."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.launch import ROOT, run
from trainer.cli import parse_config

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_CPUS_ON_NODE": "2",
    "RUN": "runs/fake",
}
SCRIPTS = sorted((ROOT / "cluster").glob("*.sbatch"))


@pytest.fixture
def job(tmp_path):
    """Run a script as SLURM would; `mpirun` has the lines of the bash script that replaces mpirun."""
    (tmp_path / "runs" / "fake").mkdir(parents=True)
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "activate").write_text(f"PATH={bin_folder}:$PATH\n")

    def fake(name: str, lines: str) -> None:
        (bin_folder / name).write_text(f"#!/usr/bin/env bash\n{lines}\n")
        (bin_folder / name).chmod(0o755)

    def start(script: str, mpirun: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        fake("scontrol", 'echo "scontrol $*" >>called')
        fake("srun", 'echo "srun $*" >>called\nexit "${DEAD_NODE:-0}"')
        fake("mpirun", f'echo "mpirun $*" >>called\n{mpirun}')
        settings = {**JOB, "SLURM_SUBMIT_DIR": str(tmp_path), **environment}
        return run("bash", str(ROOT / "cluster" / script), *arguments, cwd=tmp_path, timeout=60, **settings)

    return start


def called(folder: Path) -> str:
    record = folder / "called"
    return record.read_text() if record.exists() else ""


def test_a_complete_run_is_a_success(job, tmp_path):
    done = job("train.sbatch", 'touch "$RUN/complete"', "--recipe", "paper", STORE="a.zarr")
    assert done.returncode == 0, done.stderr
    expected = "mpirun -n 4 python -m trainer.run --store a.zarr --run runs/fake --recipe paper\n"
    assert called(tmp_path) == expected


def test_a_saved_run_is_queued_again(job, tmp_path):
    job("train.sbatch", "exit 75", SLURM_RESTART_COUNT="2", MAX_REQUEUES="3")
    assert called(tmp_path).endswith("scontrol requeue 7\n")


def test_a_job_that_goes_back_to_a_checkpoint_does_so_once(job, tmp_path):
    back = ("--resume", "runs/fake/checkpoints/step-00000006")
    job("train.sbatch", 'touch "$RUN/complete"', *back)
    assert called(tmp_path).endswith(" ".join(back) + "\n")
    job("train.sbatch", 'touch "$RUN/complete"', *back, SLURM_RESTART_COUNT="1")
    assert called(tmp_path).endswith(" ".join(back) + " --resume auto\n")
    flags = ["--run", "runs/fake", *back, "--resume", "auto"]  # the later of two flags wins
    assert parse_config(flags).run.resume == "auto"


def test_a_job_whose_node_died_is_queued_again(job, tmp_path):
    done = job("train.sbatch", "exit 137", DEAD_NODE="1")
    assert "a node of n[1-2] no longer answers: queueing this job again" in done.stdout
    assert called(tmp_path).endswith("scontrol requeue 7\n")


@pytest.mark.parametrize(
    ("mpirun", "sentence"),
    [
        ("exit 75", "saved but not complete, after 3 requeues"),
        ("exit 3", "failed with code 3"),
        ("exit 0", "not marked as complete"),
        ('touch "$RUN/complete"; kill -9 $$', "failed with code 137"),
    ],
    ids=["too often", "failed", "a rank was lost", "killed"],
)
def test_any_other_end_is_a_failure_and_not_queued_again(mpirun, sentence, job, tmp_path):
    done = job("train.sbatch", mpirun, SLURM_RESTART_COUNT="3", MAX_REQUEUES="3")
    assert done.returncode not in (0, 75)
    assert sentence in done.stderr
    assert "scontrol" not in called(tmp_path)


def test_the_signal_before_the_time_limit_reaches_the_launcher_which_is_waited_for(job, tmp_path):
    # The fake launcher sends the signal to the script once that has a handler for it (0x200: bit 10 - 1,
    # SIGUSR1). Then it takes half a second to save.
    mpirun = """trap 'sleep 0.5; exit 75' USR1
        until ((0x$(awk '/SigCgt/ {print $2}' /proc/$PPID/status) & 0x200)); do sleep 0.05; done
        kill -USR1 $PPID
        for _ in {1..300}; do sleep 0.1; done
        exit 1"""
    job("train.sbatch", mpirun)
    assert called(tmp_path).endswith("scontrol requeue 7\n")


def test_a_run_that_its_user_stopped_is_not_queued_again(job, tmp_path):
    done = job("train.sbatch", 'touch "$RUN/stop"; exit 75')
    assert done.returncode == 75, done.stderr
    assert "was saved and stopped by the file" in done.stdout
    assert "requeue" not in called(tmp_path)


@pytest.mark.parametrize("script", ["train.sbatch", "evaluate.sbatch"])
@pytest.mark.parametrize(
    ("tasks", "nodes", "by_node", "fits"),
    [
        ("1", "1", "1", True),
        ("4", "1", "4", True),
        ("26", "13", "2(x13)", True),
        ("3", "1", "3", False),
        ("3", "2", "2(x2)", False),  # what SLURM reports when --ntasks leaves a place empty
        ("6", "2", "3(x2)", False),
        ("4", "2", "3,1", False),
        ("2", "2", "1(x2)", False),
    ],
)
def test_no_node_holds_half_a_pair(script, tasks, nodes, by_node, fits, job, tmp_path):
    done = job(
        script,
        'touch "$RUN/complete" "$RUN/ten-crop.json"',
        SLURM_NTASKS=tasks,
        SLURM_JOB_NUM_NODES=nodes,
        SLURM_TASKS_PER_NODE=by_node,
    )
    assert (done.returncode == 0) == fits, done.stderr
    assert ("cannot be paired" in done.stderr) != fits
    assert bool(called(tmp_path)) == fits


def test_an_evaluation_without_a_result_failed(job, tmp_path):
    (tmp_path / "runs" / "fake" / "ten-crop.json").write_text("of an earlier evaluation")
    done = job("evaluate.sbatch", "exit 0")
    assert done.returncode == 1
    assert "without a result" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_outside_of_the_project_says_so(script, tmp_path):
    done = run("bash", str(script), cwd=tmp_path, **JOB, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "has no .venv" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_site_edits_its_account_its_partition_and_its_modules_alone(script):
    lines = script.read_text().splitlines()
    marked = [number for number, line in enumerate(lines) if "EDIT" in line]
    assert [re.findall("account and partition|modules", lines[number]) for number in marked] == [
        ["account and partition"],
        ["modules"],
    ]


def test_scripts_are_sound_bash():
    for script in (*SCRIPTS, ROOT / "cluster" / "submit.sh"):
        done = run("bash", "-n", str(script), cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert "set -euo pipefail" in script.read_text()
    assert os.access(ROOT / "cluster" / "submit.sh", os.X_OK)


@pytest.fixture
def submit(tmp_path):
    """Run submit.sh with a fake sbatch, which logs its calls and refuses jobs that contain `refused`."""
    (tmp_path / "cluster").symlink_to(ROOT / "cluster")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, lines in {
        "sbatch": '[[ "$*" != *$REFUSED* ]] || exit 1\necho "$((99 + $(wc -l <called)));federation"',
        "scancel": "true",
    }.items():
        (programs / name).write_text(f'#!/usr/bin/env bash\necho "{name} $RUN: $*" >>called\n{lines}\n')
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"

    def start(*options: str, refused: str = "no such", **environment: str) -> subprocess.CompletedProcess:
        command = ("cluster/submit.sh", *options)
        return run(*command, cwd=tmp_path, PATH=path, RUN="runs/mine", REFUSED=refused, **environment)

    return start


OURS = "sbatch runs/mine: --parsable --export=ALL --kill-on-invalid-dep=yes --output=logs/%x-%j.log "


@pytest.mark.parametrize("seeds", ["", "1-5"], ids=["one network", "five"])
def test_submit_chains_the_three_jobs(seeds, submit, tmp_path):
    done = submit("--nodes=2", "--", "--recipe", "paper", SEEDS=seeds)
    assert done.returncode == 0, done.stderr
    array = "--array=1-5 " if seeds else ""
    assert [line.removeprefix(OURS) for line in called(tmp_path).splitlines()] == [
        "cluster/preprocess.sbatch",
        f"--dependency=afterok:100 --nodes=2 {array}cluster/train.sbatch --recipe paper",
        "--dependency=afterok:101 --nodes=2 cluster/evaluate.sbatch",
    ]
    assert (tmp_path / "logs").is_dir()
    assert "job 102" in done.stdout


def test_a_job_that_slurm_does_not_take_cancels_those_before_it(submit, tmp_path):
    done = submit(refused="evaluate.sbatch")
    assert done.returncode == 1
    assert "error: SLURM does not take this job" in done.stderr
    assert called(tmp_path).endswith("scancel runs/mine: 100 101\n")


def test_each_job_of_an_array_trains_its_own_seed(job, tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    lines = 'mkdir -p "$RUN/seed-3" && touch "$RUN/seed-3/complete"'
    done = job("train.sbatch", lines, "--recipe", "paper", STORE="a.zarr", **array)
    assert done.returncode == 0, done.stderr
    assert "--run runs/fake/seed-3 --recipe paper --seed 3\n" in called(tmp_path)


def test_the_networks_of_an_array_are_averaged(job, tmp_path):
    for seed in (1, 2):
        (tmp_path / "runs" / "fake" / f"seed-{seed}").mkdir()
    done = job("evaluate.sbatch", 'touch "$RUN/ten-crop.json"')
    assert done.returncode == 0, done.stderr
    runs = "--run runs/fake/seed-1 runs/fake/seed-2 --json runs/fake/ten-crop.json --ensemble\n"
    assert runs in called(tmp_path)
