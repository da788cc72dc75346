"""Hosts whose disks are their own: rank 0 looks at the run's folder, all others are told what it holds."""

import hashlib
import json

from tests.launch import ranks
from tests.test_failure import SMALL

# Pair 0, which writes, has one folder; every other pair's relative paths lead to an empty one.
PROGRAM = """
import os, sys
from pathlib import Path
from mpi4py import MPI
from trainer import run
here = Path(sys.argv[1]) / ("shared" if MPI.COMM_WORLD.rank < 2 else "own")
here.mkdir(exist_ok=True)
os.chdir(here)
run.main(sys.argv[2:])
"""


def test_a_run_goes_on_though_only_pair_0_sees_its_folder(tiny_store, tmp_path):
    def train(*flags):
        where = ("--store", str(tiny_store), *SMALL, "--precision", "float32", *flags)
        done = ranks(4, "-c", PROGRAM, str(tmp_path), *where, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    train("--run", "straight", "--max-steps", "5", "--lr", "0.002")
    train("--run", "mixed", "--max-steps", "3", "--lr", "0.002")
    # The rate is the run's own, which rank 0 alone can read.
    text = train("--run", "mixed", "--max-steps", "4")
    assert "continuing from step 3" in text
    back = "mixed/checkpoints/step-00000003"
    text = train("--run", "mixed", "--resume", back, "--max-steps", "5")
    assert "set aside" in text
    assert "continuing from step 3" in text
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


def test_an_evaluation_needs_the_runs_folder_on_rank_0_alone(tiny_store, tmp_path):
    program = PROGRAM.replace("import run", "import evaluate as run")
    made = ("--store", str(tiny_store), "--run", "mine", *SMALL, "--max-steps", "2")
    done = ranks(4, "-c", PROGRAM, str(tmp_path), *made, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = ranks(4, "-c", program, str(tmp_path), "--run", "mine", "--json", "errors.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "shared" / "errors.json").read_text())["images"] == 30
    assert not (tmp_path / "own" / "errors.json").exists()
