"""Estimate the time of a step on many GPUs: computation, exchange in pairs, all-reduce of gradients.

    python -m trainer.scaling --gpus 1024 --gpu h100 --network ndr --pair-batch 256

This is a model, not a measurement. A rank computes its tower at a share of the GPU's peak. The two towers of
a pair exchange activations, which does not overlap with computation. Each stage's gradients are reduced over
all pairs while the stages below still compute. `make bench-scaling` compares the model with 1, 2 and 4 pairs
on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from preprocess.shared.program import as_typed, words
from preprocess.shared.ranges import Count, Range
from trainer.config import Ranged
from trainer.errors import UserError, require_output
from trainer.figures import style
from trainer.hardware import GPUS, HOST_LATENCY, INTERCONNECTS, KERNELS, Gpu

# Of one tower, by stage: multiply-accumulates (MACs) per image, forward and backward (conv1 needs no gradient
# of its input); parameters; and activations that it sends to the other tower.
FORWARD_MACS = (52.7e6 + 111.95e6, 74.75e6 + 56.05e6 + 37.4e6, 18.85e6, 8.4e6 + 2.05e6)
BACKWARD_MACS = (52.7e6 + 2 * 111.95e6, *(2 * macs for macs in FORWARD_MACS[1:]))
PARAMETERS = (171_200, 995_840, 18_876_416, 10_439_656)
ACTIVATIONS = (21_632, 4_608, 2_048)  # 128x13x13, 128x6x6, 2048; then 1,000 logits in float32
LOGITS = 1000
WIDTH = 120  # columns that the table needs


@dataclass(frozen=True, kw_only=True)
class Settings(Ranged):
    """Estimated time of a step on 8 to --gpus GPUs, and what limits it."""

    gpus: Annotated[int, Range("[8, 1e6]")] = 1024
    """The largest number of GPUs; the others are its halves, down to 8."""
    gpu: Literal["v100", "a100", "h100", "h200"] = "h100"
    """Kind of GPU."""
    network: Literal["10gbe", "100gbe", "hdr", "ndr"] = "ndr"
    """Network between hosts, one port per GPU."""
    bandwidth: Annotated[float | None, Range("(0, 1e6]")] = None
    """Gigabytes per second for each GPU in one direction, instead of the network's."""
    latency: Annotated[float | None, Range("[0, 1e6]")] = None
    """Microseconds from one process to another, instead of the network's."""
    gpus_per_host: Count = 8
    """GPUs per host, which are connected without the network."""
    pair_batch: Count = 256
    """Images per step and pair."""
    batch_size: Annotated[int | None, Range("[1, 1e9]")] = None
    """Images per step of all pairs, instead of --pair-batch."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic, and data type of a pair's exchanges; float32 is computed at half the speed (TF32)."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type in which gradients are sent."""
    overlap: bool = True
    """Reduce a stage's gradients while the stages below still compute."""
    plot: Path | None = None
    """File for a plot of images per second and of the parts of a step."""


@dataclass(frozen=True)
class Step:
    """One step: its images, over all pairs, and the parts of its time in seconds."""

    images: float
    compute: float
    exchange: float
    """Of activations, between the two towers of a pair."""
    exposed: float
    """The part of the all-reduce that does not overlap with computation."""

    @property
    def seconds(self) -> float:
        return self.compute + self.exchange + self.exposed

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


def all_reduce(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Seconds to all-reduce `size` bytes by recursive halving and doubling (Thakur et al., 2005).

    bandwidth: bytes per second; latency: seconds.
    """
    return 2 * math.ceil(math.log2(ranks)) * latency + 2 * (ranks - 1) / ranks * size / bandwidth


def exposed_reduction(backward: Sequence[float], reductions: Sequence[float], overlap: bool) -> float:
    """Seconds from the end of the backward pass to the end of the last reduction.

    backward, reductions: seconds of each stage, from the bottom. The reductions run one after the other, the
    top stage's first, each as soon as its gradients exist.
    """
    computed = reduced = 0.0
    for computation, reduction in zip(reversed(backward), reversed(reductions), strict=True):
        computed += computation
        reduced = max(computed, reduced) + reduction
    return reduced - computed if overlap else sum(reductions)


def step(settings: Settings, gpus: int, gpu: Gpu | None = None) -> Step:
    """The estimated step on this number of GPUs, two of them a pair."""
    gpu, network = gpu or GPUS[settings.gpu], INTERCONNECTS[settings.network]
    pairs = gpus // 2
    batch = settings.pair_batch if settings.batch_size is None else settings.batch_size / pairs
    width = {"float32": 4, "bfloat16": 2}
    flops = gpu.flops * gpu.share / (1 if settings.precision == "bfloat16" else 2)
    # The update reads and writes about 20 bytes per parameter. The forward and the backward pass read each
    # weight, and the latter writes its gradient.
    memory = sum(PARAMETERS) * (20 + 3 * width[settings.precision]) / gpu.memory
    backward = [2 * macs * batch / flops for macs in BACKWARD_MACS]
    forward = sum(2 * macs * batch / flops for macs in FORWARD_MACS)
    compute = forward + sum(backward) + memory + KERNELS * gpu.launch
    moved = batch * (2 * sum(ACTIVATIONS) * width[settings.precision] + 4 * LOGITS)
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
    """The factor of images per second for each improvement; the largest shows what limits the step."""
    now, pairs = step(settings, gpus), gpus // 2
    batch = settings.pair_batch if settings.batch_size is None else settings.batch_size / pairs
    larger = replace(settings, pair_batch=2 * math.ceil(batch), batch_size=None)
    bfloat16 = replace(settings, precision="bfloat16", gradient_dtype="bfloat16")
    return {
        "batch": step(larger, gpus).images_per_second / now.images_per_second,
        "precision": step(bfloat16, gpus).images_per_second / now.images_per_second,
        "overlap": now.seconds / (now.compute + now.exchange),
    }


def counts(settings: Settings) -> list[int]:
    """Numbers of GPUs, from 8 or more to the largest, each twice the one before. Raises UserError."""
    if settings.gpus % 2:
        raise UserError(f"--gpus must be an even number, not {settings.gpus}: two GPUs are a pair.")
    found = [settings.gpus]
    while found[0] % 4 == 0 and found[0] // 2 >= 8:
        found.insert(0, found[0] // 2)
    return found


def show(settings: Settings) -> None:
    """Print a table with a row for each number of GPUs."""
    console = Console()
    console.width = max(console.width, WIDTH)
    title = f"{settings.gpu}, {settings.network}, {settings.precision}: a model, not a measurement"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("GPUs", "batch", "images/s", "of linear", "step", "compute", "exchange", "reduction")
    for column in (*columns, "x batch", "x precision", "x overlap"):
        table.add_column(column, justify="right", no_wrap=True)
    alone = step(settings, 2).images_per_second / 2
    for gpus in counts(settings):
        s, factors = step(settings, gpus), gains(settings, gpus)
        best = max(factors.values())
        table.add_row(
            f"{gpus}",
            f"{s.images:,.0f}",
            f"{s.images_per_second:,.0f}",
            f"{s.images_per_second / gpus / alone:.0%}",
            *(f"{1e3 * t:.2f}" for t in (s.seconds, s.compute, s.exchange, s.exposed)),
            *(f"[bold]{f:.2f}[/]" if f == best > 1.005 else f"{f:.2f}" for f in factors.values()),
        )
    console.print(table)
    console.print(
        "Times in milliseconds; reduction: the part that does not overlap with computation. The last\n"
        "columns are the speed-up by twice the batch per pair, by bfloat16 for arithmetic, exchanges and\n"
        "gradients, and by a reduction that overlaps completely. The largest, bold, shows the bottleneck."
    )


def draw_plot(settings: Settings, path: Path) -> None:
    """Plot images per second next to linear scaling, and the parts of a step."""
    from matplotlib.figure import Figure  # slow to import, and optional

    gpus = counts(settings)
    steps = [step(settings, n) for n in gpus]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    alone = step(settings, 2).images_per_second / 2
    left.loglog(gpus, [s.images_per_second for s in steps], "o-", label="model")
    left.loglog(gpus, [alone * n for n in gpus], "--", color="grey", label="linear")
    left.set(xlabel="GPUs", ylabel="images per second")
    left.legend()
    names = [str(n) for n in gpus]
    bottom = [0.0] * len(gpus)
    for part, label in (
        ("compute", "computation"),
        ("exchange", "exchange"),
        ("exposed", "reduction, not overlapped"),
    ):
        heights = [1e3 * getattr(s, part) for s in steps]
        right.bar(names, heights, bottom=bottom, label=label)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    right.set(xlabel="GPUs", ylabel="milliseconds per step")
    right.legend()
    figure.suptitle(f"{settings.gpu}, {settings.network}, {settings.precision}: a model, not a measurement")
    style.write(figure, path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    try:
        settings = tyro.cli(Settings, prog=as_typed("python -m trainer.scaling"), args=words(argv))
        require_output(settings.plot, *style.FORMATS)
        show(settings)
        if settings.plot:
            draw_plot(settings, settings.plot)
            print(f"{settings.plot}: a plot")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
