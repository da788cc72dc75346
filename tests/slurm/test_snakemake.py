"""Snakemake submits the stages of preprocessing itself."""

import shutil

import pytest

from preprocess.store import open_store
from tests.launch import run
from tests.slurm.private import PATH

pytestmark = pytest.mark.timeout(300)

# For two small nodes, and without the wait that spares a large cluster's controller.
HERE = (
    *("--set-threads", "shards=2", "verify=2", "--default-resources", "runtime=10", "mem_mb=2000"),
    *("--slurm-init-seconds-before-status-checks", "3", "--slurm-status-command", "squeue"),
)


def test_preprocessing_submits_itself_as_one_job(slurm, workplace):
    made = run(
        *("python", "-m", "preprocess.miniature", "data/imagenet", "--train", "60", "--val", "30"),
        cwd=workplace,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    # In its jobs the plugin forgets where SLURM's configuration lies, which elsewhere is /etc.
    srun = workplace / "bin" / "srun"
    srun.parent.mkdir()
    conf, real = slurm.environment["SLURM_CONF"], shutil.which("srun", path=PATH)
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {real} "$@"\n')
    srun.chmod(0o755)
    environment = {**slurm.environment, "PATH": f"{srun.parent}:{PATH}"}
    done = run(
        *("snakemake", "--profile", "profiles/slurm", "preprocess", *HERE),
        *("--config", "image_size=224", "shard_length=16"),
        cwd=workplace,
        timeout=200,
        **environment,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert text.count("has been submitted with SLURM jobid") == 1
    store = open_store(workplace / "data" / "imagenet256.zarr")
    assert (len(store.train), len(store.val)) == (60, 30)
