"""Seconds a step against the bandwidth between four hosts with a pair each, next to trainer.scaling's model.

    python -m tests.hosts.bandwidth [--mbit 10 100 1000 10000] [--steps 6] [FLAGS of python -m trainer.run]

The bytes are what the cables' own counters see; the model's are the gradients and TCP's headers. On fast
cables the kernel moves many packets under one header, and the counters see fewer. Gradients travel while the
stages below still compute: the model's step takes between the longer of computing and travelling, and their
sum.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import rich
import rich.table
from safetensors import safe_open

from tests.hosts.network import Hosts, NoHostsError, network
from tests.launch import ROOT, run
from trainer.model.network import TOWERS
from trainer.runs.log import read_log
from trainer.scaling import all_reduce

HOSTS = 4
BATCH = 16
NETWORK = (
    "--filters",
    "6",
    "8",
    "12",
    "12",
    "8",
    "--hidden",
    "256",
    "--batch-size",
    str(BATCH),
    "--no-figures",
)
# A frame of 1,514 bytes carries 1,448 of them, and every other one is acknowledged by one of 66.
FRAMES = (1514 + 66 / 2) / 1448
UNLIMITED = 100e9  # bit/s: more than this machine's kernel moves


def store(folder: Path) -> Path:
    """A store of 60 images."""
    imagenet, path = folder / "imagenet", folder / "store.zarr"
    for command in (
        ["python", "-m", "preprocess.miniature", str(imagenet), "--train", "60", "--val", "30"],
        ["snakemake", "preprocess", "--config", f"imagenet={imagenet}", f"store={path}"],
    ):
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return path


def measure(hosts: Hosts, steps: int, folder: Path, flags: list[str]) -> tuple[float, float]:
    """Seconds and bytes a step: the mean over the second half of the steps, and the busiest cable's."""
    before = [hosts.carried(number) for number in hosts.numbers]
    command = [sys.executable, "-m", "trainer.run", "--run", str(folder), *NETWORK, *flags]
    command += ["--epochs", "1000", "--max-steps", str(steps), "--log-every", "1"]
    done = run(*hosts.mpirun(2, *command), cwd=ROOT, timeout=600, **hosts.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    after = [hosts.carried(number) for number in hosts.numbers]
    rates = [line["images_per_second"] for line in read_log(folder / "metrics.jsonl") if "loss" in line]
    late = rates[len(rates) // 2 :]
    moved = max(
        n - b for now, then in zip(after, before, strict=True) for n, b in zip(now, then, strict=True)
    )
    return sum(BATCH / rate for rate in late) / len(late), moved / steps


def gradients(run: Path) -> int:
    """Bytes that both towers' gradients have, in float32."""
    newest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    count = 0
    for tower in TOWERS:
        with safe_open(newest / f"tower_{tower}.safetensors", "numpy") as file:
            names = [name for name in file.keys() if not name.startswith("momentum.")]  # noqa: SIM118
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return 4 * count


def main() -> None:
    """Measure without a limit, then at each bandwidth; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mbit", type=float, nargs="+", default=[10, 30, 100, 300, 1000, 10_000])
    parser.add_argument("--steps", type=int, default=6)
    arguments, flags = parser.parse_known_args()
    table = rich.table.Table(title=f"{HOSTS} hosts, a pair each, batch {BATCH}")
    columns = ("Mbit/s", "s a step", "MB a step", "model: MB", "travelling, s", "overlapped, s", "in turn, s")
    for column in columns:
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, network(HOSTS) as hosts:
        flags = ["--store", str(store(Path(name))), *flags]
        hosts.limit(UNLIMITED)
        alone, _ = measure(hosts, arguments.steps, Path(name) / "unlimited", flags)
        size = gradients(Path(name) / "unlimited")
        table.add_row("no limit", f"{alone:.2f}")
        for mbit in arguments.mbit:
            hosts.limit(mbit * 1e6)
            seconds, moved = measure(hosts, arguments.steps, Path(name) / f"{mbit:g}", flags)
            bandwidth = mbit * 1e6 / 8  # bytes a second
            travelling = all_reduce(FRAMES * size, HOSTS, bandwidth, latency=0)
            model = (travelling * bandwidth / 1e6, travelling, max(alone, travelling), alone + travelling)
            figures = (seconds, moved / 1e6, *model)
            table.add_row(f"{mbit:g}", *(f"{figure:.2f}" for figure in figures))
    rich.print(table)


if __name__ == "__main__":
    try:
        main()
    except NoHostsError as reason:
        sys.exit(f"error: no network namespaces here: {reason}")
