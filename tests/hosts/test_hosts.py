"""Three hosts with a pair each and TCP between them. Time-outs only end what hangs."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.network import Hosts, NoHostsError, network
from tests.launch import NETWORK, PYTEST, ROOT, run

pytestmark = pytest.mark.privileged


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    try:
        with network(3) as made:
            yield made
    except NoHostsError as reason:
        pytest.skip(f"no network namespaces here: {reason}")


def on(
    hosts: Hosts, each: int, *arguments: str, cwd: Path, count: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`mpirun -ppn each python ARGUMENTS` over the first `count` hosts, or all."""
    command = hosts.mpirun(each, sys.executable, *arguments, count=count)
    return run(*command, cwd=cwd, timeout=240, **hosts.environment)


def test_a_pair_on_each_of_three_hosts_trains_as_the_single_process_does(hosts):
    hosts.limit(1e9)
    before = [hosts.carried(number) for number in hosts.numbers]
    done = on(
        *(hosts, 2, *PYTEST),
        *("tests/mpi/test_parity.py", "-k", "training_equals and small-mpi"),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "1 passed" in done.stdout
    # Whatever way a sum takes, each host sends and receives its gradients once at least. Those of fc6 alone,
    # 32 units of 2 x 8 x 6 x 6 inputs in float32, two towers, six times:
    least = 6 * 2 * 32 * 576 * 4
    for number, (sent, received) in zip(hosts.numbers, before, strict=True):
        now = hosts.carried(number)
        assert now[0] - sent > least
        assert now[1] - received > least


def test_a_pair_on_two_hosts_is_refused_by_their_names(hosts, tmp_path):
    done = on(hosts, 1, "-m", "trainer.run", cwd=tmp_path, count=2)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Ranks 0 and 1 are a pair on two hosts, host1 and host2" in done.stderr


def test_a_cable_that_is_cut_ends_the_job_naming_the_host_and_the_run_goes_on(hosts, tiny_store, tmp_path):
    folder = tmp_path / "run"
    small = ("--batch-size", "8", *NETWORK, "--no-figures")
    command = ("-m", "trainer.run", "--store", str(tiny_store), "--run", str(folder))
    endless = ("--epochs", "100000", "--checkpoint-every", "2", "--timeout", "5")
    latest, output = folder / "checkpoints" / "latest", tmp_path / "output"
    try:
        with output.open("w") as file:
            job = subprocess.Popen(
                hosts.mpirun(2, sys.executable, *command, *small, *endless, count=2),
                env=hosts.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        until = time.monotonic() + 300
        while not latest.exists():
            assert job.poll() is None, output.read_text()
            assert time.monotonic() < until, output.read_text()
            time.sleep(0.05)
        hosts.cut(2)
        assert job.wait(timeout=120) != 0
    finally:
        hosts.end()
        hosts.mend(2)
    text = output.read_text()
    assert "No progress for 5 s" in text
    assert "no answer from rank 2 on host2, rank 3 on host2: stopped, or the host is out of reach" in text

    step = int(latest.read_text().removeprefix("step-"))
    done = on(hosts, 2, *command, "--max-steps", str(step + 1), cwd=tmp_path, count=1)
    assert done.returncode == 0, done.stderr
    assert f"continuing from step {step}" in done.stdout + done.stderr
    assert (folder / "complete").read_text() == f"{step + 1} steps\n"
