"""Preprocessing whose workers are jobs of a real SLURM: over TLS, and with the bytes of one machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from preprocess.shards.layout import shard_path
from tests.preprocess.helpers import ROOT, draw, encode, stage
from tests.slurm.private import Slurm

SITE = {  # what a site says of itself in ~/.config/dask/jobqueue.yaml
    "DASK_JOBQUEUE__SLURM__WALLTIME": "00:05:00",
    "DASK_JOBQUEUE__SLURM__MEMORY": "1GiB",
    "DASK_JOBQUEUE__SLURM__JOB_DIRECTIVES_SKIP": "['--mem']",  # the private SLURM counts no memory
}


def test_jobs_of_slurm_make_the_same_shards_over_tls(slurm: Slurm, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    folder = tmp_path / "imagenet" / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(encode(draw(number, 60, 50)))
    stores = tmp_path / "jobs.zarr", tmp_path / "local.zarr"
    for store in stores:
        words = ("--image-size", 224, "--shard-length", 8, "--validation-fraction", 0.2)
        made = stage("index", "--store", store, "--imagenet", tmp_path / "imagenet", *words)
        assert made.returncode == 0, made.stderr
    jobs, local = stores
    command = [sys.executable, "-m", "preprocess.shard", "--store", str(jobs), "--workers", "2"]
    run = subprocess.run(
        [*command, "--dask", "slurm"],
        cwd=ROOT,
        env={**slurm.environment, **SITE, "HOME": str(tmp_path)},  # or Dask writes its template to the user's
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr + slurm.logs()
    assert "workers: slurm, scheduler tls://" in run.stdout
    assert "5 shards with 40 images" in run.stdout
    ours = [line for line in slurm("scontrol", "--oneliner", "show", "job").splitlines() if str(ROOT) in line]
    assert sum("JobName=dask-worker" in line for line in ours) == 2
    assert not list((jobs / ".preprocess").glob(".dask-jobqueue*"))  # no key is left behind

    assert stage("shard", "--store", local, "--workers", 1).returncode == 0
    for split, count in (("train", 4), ("val", 1)):
        for shard in range(count):
            made, expected = (shard_path(store, split, shard).read_bytes() for store in stores)
            assert made == expected
