"""Workers in all three modes, with a real scheduler for `address`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed.security import Security

from preprocess.errors import UserError
from preprocess.workers.cluster import connected, credentials
from tests.preprocess.helpers import SHARD_LENGTH, SIZE, stage

INDEX = ("--image-size", SIZE, "--shard-length", SHARD_LENGTH)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Path]:
    """The file of a scheduler on loopback with one worker."""
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    program = "from distributed.cli.dask_{0} import main; main()"
    words = {
        "scheduler": ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"],
        "worker": ["--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--no-dashboard"],
    }
    run = [
        subprocess.Popen(
            [sys.executable, "-c", program.format(kind), *words[kind], "--scheduler-file", str(file)],
            **quiet,
        )
        for kind in ("scheduler", "worker")
    ]
    yield file
    for process in reversed(run):
        process.kill()
        process.wait()


def test_a_running_scheduler_is_found_by_its_file(scheduler: Path, imagenet: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    stage("index", "--store", store, "--imagenet", imagenet, *INDEX)
    for _ in range(100):
        if scheduler.exists():
            break
        subprocess.run(["sleep", "0.2"], check=True)
    run = stage("shard", "--store", store, "--dask", "address", "--dask-address", scheduler)
    assert run.returncode == 0, run.stderr
    assert "workers: address, scheduler tcp://127.0.0.1:" in run.stdout
    assert "7 shards with 91 images" in run.stdout


@pytest.mark.parametrize(
    ("mode", "address", "sentence"),
    [
        ("address", "", "dask: address needs dask_address"),
        ("address", "nowhere.json", "no address and no scheduler file"),
        ("address", "tcp://10.1.2.3:8786", "neither encrypted nor authenticated"),
        ("address", "tls://10.1.2.3:8786", "needs TLS: name your credentials"),
    ],
)
def test_an_address_that_is_missing_or_unencrypted_is_refused(mode: str, address: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence), connected(mode, 1, address):
        pass


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"address": 3}', "{", "\x00"])
def test_a_scheduler_file_without_an_address_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text(content)
    sentence = "is no address and no scheduler file"
    with pytest.raises(UserError, match=sentence), connected("address", 1, str(tmp_path / "scheduler.json")):
        pass


def test_slurm_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(UserError, match="pip install dask-jobqueue"), connected("slurm", 1):
        pass


def test_temporary_credentials_demand_encryption() -> None:
    pytest.importorskip("cryptography")
    made = credentials()
    assert isinstance(made, Security)
    assert made.require_encryption
    assert "PRIVATE KEY" not in repr(made)
