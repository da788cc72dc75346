"""kill -9 and a full disk: what is finished stays, and the plain command goes on."""

import resource
import subprocess
import sys
from pathlib import Path

from tests.preprocess.helpers import ROOT, SHARD_LENGTH, SIZE, content, settings, snakemake
from tests.preprocess.soak import soak


def test_a_killed_process_costs_nothing_that_was_finished(tmp_path: Path) -> None:
    assert soak(tmp_path, kills=3, seed=1) >= 2  # a moment may come after the end


def test_a_full_disk_is_named_and_the_plain_command_goes_on(
    imagenet: Path, store: Path, tmp_path: Path
) -> None:
    full = tmp_path / "full.zarr"
    limit = SHARD_LENGTH * SIZE * SIZE * 3 // 2  # bytes a file: half a shard

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "snakemake", "preprocess", *settings(imagenet, full)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, preexec_fn=no_room)
    assert run.returncode != 0
    assert "error: shards could not be written, run again when the cause is mended" in run.stderr
    assert "File too large" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(full.rglob("*.partial"))
    again = snakemake(*settings(imagenet, full))
    assert again.returncode == 0, again.stderr
    assert content(full) == content(store)
