"""What a step would cost on GPUs that are not at hand: computing, exchange, reduction.

    python -m trainer.scaling --gpus 1024 --gpu h100 --network ndr --pair-batch 256

A model, no measurement: a rank computes its tower at a share of the GPU's peak; the two towers of a pair
trade activations, which nothing hides; each stage's gradients are summed over all pairs while the stages
below still compute. `make bench-scaling` holds it beside 1, 2 and 4 pairs on the machine at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from trainer.errors import UserError
from trainer.hardware import GPUS, HOST_LATENCY, KERNELS, NETWORKS, Gpu

# Of one tower, by stage: multiply-accumulates of an image forward and backward (conv1 needs no gradient of
# its input), parameters, and numbers that it hands on.
FORWARD_MACS = (52.7e6 + 111.95e6, 74.75e6 + 56.05e6 + 37.4e6, 18.85e6, 8.4e6 + 2.05e6)
BACKWARD_MACS = (52.7e6 + 2 * 111.95e6, *(2 * macs for macs in FORWARD_MACS[1:]))
PARAMETERS = (171_200, 995_840, 18_876_416, 10_439_656)
NUMBERS = (21_632, 4_608, 2_048)  # 128x13x13, 128x6x6, 2048; and 1,000 logits in float32
LOGITS = 1000
WIDTH = 120  # columns that the table needs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a step would cost on 8 to so many GPUs, and what holds it back."""

    gpus: int = 1024
    """The largest number of GPUs; smaller ones are halves of it."""
    gpu: Literal["v100", "a100", "h100", "h200"] = "h100"
    """Kind of GPU."""
    network: Literal["10gbe", "100gbe", "hdr", "ndr"] = "ndr"
    """Network between hosts, one port a GPU."""
    bandwidth: float | None = None
    """Instead of the network's: gigabytes a second for each GPU, one direction."""
    latency: float | None = None
    """Instead of the network's: microseconds from one process to another."""
    gpus_per_host: int = 8
    """GPUs that reach each other without the network."""
    pair_batch: int = 256
    """Images of a step for each pair."""
    batch_size: int | None = None
    """Or: images of a step in all, divided among the pairs."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic, and numbers that a pair exchanges; float32 is taken at half of the rate (TF32)."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers that gradients travel as."""
    overlap: bool = True
    """Reduce a stage's gradients while the stages below compute."""
    plot: Path | None = None
    """File for a picture of images a second and of a step's parts."""


@dataclass(frozen=True)
class Step:
    """Seconds of one step."""

    images: float
    compute: float
    exchange: float
    exposed: float
    """Of the reduction: what computing does not hide."""

    @property
    def seconds(self) -> float:
        return self.compute + self.exchange + self.exposed

    @property
    def rate(self) -> float:
        return self.images / self.seconds


def all_reduce(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Seconds to sum `size` bytes over all ranks by recursive halving and doubling (Thakur et al., 2005)."""
    return 2 * math.ceil(math.log2(ranks)) * latency + 2 * (ranks - 1) / ranks * size / bandwidth


def exposed_reduction(backward: Sequence[float], reductions: Sequence[float], overlap: bool) -> float:
    """What is left of the reductions when the backward pass is over; both by stage, from the bottom.

    One after the other, the top stage first, each no sooner than its gradients are there.
    """
    computed = reduced = 0.0
    for own, reduction in zip(reversed(backward), reversed(reductions), strict=True):
        computed += own
        reduced = max(computed, reduced) + reduction
    return reduced - computed if overlap else sum(reductions)


def step(settings: Settings, gpus: int, gpu: Gpu | None = None) -> Step:
    """The model's step on so many GPUs, two of them a pair."""
    gpu, network = gpu or GPUS[settings.gpu], NETWORKS[settings.network]
    pairs = gpus // 2
    batch = settings.pair_batch if settings.batch_size is None else settings.batch_size / pairs
    width = {"float32": 4, "bfloat16": 2}
    flops = gpu.flops * gpu.share / (1 if settings.precision == "bfloat16" else 2)
    # The update reads and writes about 20 bytes a parameter; forward and backward read each weight, and write
    # its gradient.
    memory = sum(PARAMETERS) * (20 + 3 * width[settings.precision]) / gpu.memory
    backward = [2 * macs * batch / flops for macs in BACKWARD_MACS]
    forward = sum(2 * macs * batch / flops for macs in FORWARD_MACS)
    compute = forward + sum(backward) + memory + KERNELS * gpu.launch
    moved = batch * (2 * sum(NUMBERS) * width[settings.precision] + 4 * LOGITS)
    exchange = 7 * HOST_LATENCY + moved / gpu.link
    if settings.bandwidth is not None:
        network = replace(network, bandwidth=1e9 * settings.bandwidth)
    if settings.latency is not None:
        network = replace(network, latency=1e-6 * settings.latency)
    inside = gpus <= settings.gpus_per_host
    bandwidth, latency = (gpu.link, HOST_LATENCY) if inside else (network.bandwidth, network.latency)
    size = width[settings.gradient_dtype]
    reductions = [all_reduce(size * count, pairs, bandwidth, latency) for count in PARAMETERS]
    exposed = exposed_reduction(backward, reductions, settings.overlap)
    return Step(batch * pairs, compute, exchange, exposed)


def gains(settings: Settings, gpus: int) -> dict[str, float]:
    """By what factor images a second would grow by each remedy; the largest is what holds them back."""
    now, pairs = step(settings, gpus), gpus // 2
    batch = settings.pair_batch if settings.batch_size is None else settings.batch_size / pairs
    larger = replace(settings, pair_batch=2 * math.ceil(batch), batch_size=None)
    lighter = replace(settings, precision="bfloat16", gradient_dtype="bfloat16")
    return {
        "batch": step(larger, gpus).rate / now.rate,
        "precision": step(lighter, gpus).rate / now.rate,
        "overlap": now.seconds / (now.compute + now.exchange),
    }


def counts(settings: Settings) -> list[int]:
    """Numbers of GPUs, 8 to the largest, each twice the one before."""
    if settings.gpus < 8 or settings.gpus % 2:
        raise UserError(f"--gpus must be an even number from 8 on, not {settings.gpus}: two GPUs are a pair.")
    found = [settings.gpus]
    while found[0] % 4 == 0 and found[0] // 2 >= 8:
        found.insert(0, found[0] // 2)
    return found


def show(settings: Settings) -> None:
    """A table, a line for each number of GPUs."""
    console = Console()
    console.width = max(console.width, WIDTH)
    title = f"{settings.gpu}, {settings.network}, {settings.precision}: a model, not a measurement"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("GPUs", "batch", "images/s", "of linear", "step", "compute", "exchange", "reduction")
    for column in (*columns, "x batch", "x precision", "x overlap"):
        table.add_column(column, justify="right", no_wrap=True)
    alone = step(settings, 2).rate / 2
    for gpus in counts(settings):
        s, remedies = step(settings, gpus), gains(settings, gpus)
        best = max(remedies.values())
        table.add_row(
            f"{gpus}",
            f"{s.images:,.0f}",
            f"{s.rate:,.0f}",
            f"{s.rate / gpus / alone:.0%}",
            *(f"{1e3 * t:.2f}" for t in (s.seconds, s.compute, s.exchange, s.exposed)),
            *(f"[bold]{f:.2f}[/]" if f == best > 1.005 else f"{f:.2f}" for f in remedies.values()),
        )
    console.print(table)
    console.print(
        "Times in milliseconds; reduction: what computing does not hide. The last columns say how many\n"
        "times faster it would be with twice the batch a pair, with bfloat16 for all that is computed and\n"
        "travels, and with the reduction hidden wholly: the largest is what holds it back."
    )


def draw_plot(settings: Settings, path: Path) -> None:
    """Images a second beside linear growth, and the parts of a step."""
    from matplotlib.figure import Figure  # heavy, and wanted here alone

    gpus = counts(settings)
    steps = [step(settings, n) for n in gpus]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    alone = step(settings, 2).rate / 2
    left.loglog(gpus, [s.rate for s in steps], "o-", label="model")
    left.loglog(gpus, [alone * n for n in gpus], "--", color="grey", label="as many times one pair")
    left.set(xlabel="GPUs", ylabel="images a second")
    left.legend()
    names = [str(n) for n in gpus]
    bottom = [0.0] * len(gpus)
    for part, label in (("compute", "computing"), ("exchange", "exchange"), ("exposed", "exposed reduction")):
        heights = [1e3 * getattr(s, part) for s in steps]
        right.bar(names, heights, bottom=bottom, label=label)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    right.set(xlabel="GPUs", ylabel="milliseconds a step")
    right.legend()
    figure.suptitle(f"{settings.gpu}, {settings.network}, {settings.precision}: a model, not a measurement")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    settings = tyro.cli(Settings, prog="python -m trainer.scaling", args=argv)
    try:
        show(settings)
        if settings.plot:
            draw_plot(settings, settings.plot)
            print(f"{settings.plot}: the same as a picture")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
