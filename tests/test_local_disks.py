"""Hosts whose disks are their own: rank 0 looks at the run's folder, all others are told what it holds."""

import hashlib
import json

from tests.launch import ranks
from tests.test_failure import SMALL
from tests.trainer.in_process import command

# Pair 0, which writes, has one folder; every other pair's relative paths lead to an empty one. One command
# after the other, in the same processes.
PROGRAM = """
import json, os, sys
from pathlib import Path
from mpi4py import MPI
from trainer import evaluate, run
here = Path(sys.argv[1]) / ("shared" if MPI.COMM_WORLD.rank < 2 else "own")
here.mkdir(exist_ok=True)
os.chdir(here)
for program, words in json.loads(sys.argv[2]):
    try:
        {"run": run, "evaluate": evaluate}[program].main(words)
    except SystemExit as leaving:
        if leaving.code:
            raise
"""


def test_runs_go_on_and_are_evaluated_though_only_pair_0_sees_their_folder(tiny_store, small_run, tmp_path):
    same = ("--store", str(tiny_store), *SMALL, "--precision", "float32")
    back = "mixed/checkpoints/step-00000003"
    checkpoints = map(str, sorted((small_run / "checkpoints").glob("step-*")))
    ensemble = ["--checkpoint", *checkpoints, "--ensemble", "--per-class", "--device", "cpu"]
    commands = [
        ["run", [*same, "--run", "straight", "--max-steps", "5", "--lr", "0.002"]],
        ["run", [*same, "--run", "mixed", "--max-steps", "3", "--lr", "0.002"]],
        # The rate is the run's own, which rank 0 alone can read.
        ["run", [*same, "--run", "mixed", "--max-steps", "4"]],
        ["run", [*same, "--run", "mixed", "--resume", back, "--max-steps", "5"]],
        ["evaluate", ["--run", "mixed", "--json", "errors.json"]],
        # 30 images divide neither among two pairs in batches of 4 nor in batches of 7.
        ["evaluate", [*ensemble, "--json", "ensemble.json", "--batch-size", "4"]],
    ]
    done = ranks(4, "-c", PROGRAM, str(tmp_path), json.dumps(commands), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("continuing from step 3") == 2
    assert "set aside" in done.stdout
    assert not list((tmp_path / "own").rglob("*.safetensors"))
    for tower in ("tower_a", "tower_b"):
        straight, mixed = (
            tmp_path / "shared" / run / "checkpoints" / "step-00000005" / f"{tower}.safetensors"
            for run in ("straight", "mixed")
        )
        assert (
            hashlib.sha256(mixed.read_bytes()).hexdigest()
            == hashlib.sha256(straight.read_bytes()).hexdigest()
        )
    assert json.loads((tmp_path / "shared" / "mixed" / "config.json").read_text())["changes"] == []
    assert json.loads((tmp_path / "shared" / "errors.json").read_text())["images"] == 30
    assert not (tmp_path / "own" / "errors.json").exists()
    alone = command("evaluate", *ensemble, "--json", "alone.json", "--batch-size", "7", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    expected = json.loads((tmp_path / "alone.json").read_text())
    assert json.loads((tmp_path / "shared" / "ensemble.json").read_text()) == expected
    assert done.stdout.count("2 averaged") == 1
