"""Figure 1 of the paper: epochs to 25 % training error on CIFAR-10, ReLU beside tanh."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from preprocess.shared.files import write_atomically
from trainer.errors import UserError
from trainer.experiments import cifar
from trainer.experiments.earlier import differences, refuse_other_settings, unreadable
from trainer.experiments.small import Activation, Racer, reached
from trainer.figures import style

RUNGS = ((1, 3), (3, 2), (9, 1))
"""After so many epochs so many rates go on: the fastest at first may be too high later."""
PAPER = {"relu": 6, "tanh": 36}
"""Epochs to 25 %, read off the paper's Figure 1; its caption says six times faster."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Epochs to 25 % training error, ReLU beside tanh: the paper's Figure 1.

    Every rate of a kind trains for 1 epoch, the best three for 3, the best two for 9, the best to the end.

    Example: python -m trainer.experiments relu-vs-tanh --data cifar-10-binary.tar.gz
    """

    data: Path | None = None
    """CIFAR-10, binary version or pictures, a folder or a tar. None: looked for in data/."""
    out: Path = Path("runs/relu-vs-tanh")
    """Folder of the weights, curves and the figure."""
    activations: tuple[Activation, ...] = ("relu", "tanh")
    """Which to train; the figure shows the other one too where the folder holds it with the same settings."""
    relu_rates: tuple[float, ...] = (0.001, 0.002, 0.004, 0.008)
    """Rates to choose from for ReLU; that of the biases is twice as high."""
    tanh_rates: tuple[float, ...] = (0.004, 0.008, 0.016, 0.032)
    """Rates to choose from for tanh."""
    target: float = 0.25
    """Training error to reach, a fraction."""
    max_epochs: int = 60
    """Give up after so many epochs."""
    images: int | None = None
    """Only so many of the training pictures. None: all 50,000."""
    seed: int = 0
    """Seed of weights and order."""
    threads: int = 1
    """Threads to compute with; the network is too small for many."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; weights are float32. auto: bfloat16 where the processor has it."""

    def __post_init__(self) -> None:
        if not (self.relu_rates and self.tanh_rates and self.activations):
            raise UserError("Give at least one rate of each kind, and at least one activation.")
        if not 0 < self.target < 0.9:
            raise UserError(f"--target must lie between 0 and 0.9, which is chance, not at {self.target}.")


def choose(
    racers: list[Racer], images: NDArray[np.uint8], labels: NDArray[np.int64], target: float, limit: int
) -> Racer:
    """The fastest of them, trained to the target or the limit of epochs."""

    def advance(racer: Racer, epochs: int) -> None:
        while racer.epochs < min(epochs, limit) and racer.reached(target) is None:
            racer.train_epoch(images, labels)
            print(
                f"{racer.activation} at rate {racer.rate:g}: epoch {racer.epochs}, "
                f"training error {100 * racer.error:.1f} %",
                flush=True,
            )

    for rung, places in RUNGS:
        for racer in racers:
            advance(racer, rung)

        # By the error at this very epoch: a rate that was added later meets others that are further.
        def rank(racer: Racer, rung: int = rung) -> tuple[float, float]:
            return racer.reached(target) or math.inf, racer.error_after(rung)

        racers = sorted(racers, key=rank)[:places]
    advance(racers[0], limit)
    return racers[0]


def run(arguments: Arguments) -> None:
    """Train what the folder does not hold yet, draw, and say how the two compare."""
    style.available()  # said now, not after hours
    torch.set_num_threads(arguments.threads)
    images, labels = cifar.read(arguments.data or cifar.find())
    if arguments.images is not None:  # a random part: pictures in class folders come class by class
        part = np.random.default_rng(arguments.seed).permutation(len(images))[: arguments.images]
        images, labels = images[part], labels[part]
    from trainer.parallel.device import resolve_precision  # here, for it brings MPI along

    low = resolve_precision(arguments.precision, torch.device("cpu")) == "bfloat16"
    print(f"{len(images):,} pictures, {'bfloat16' if low else 'float32'}", flush=True)
    out, seed = arguments.out, arguments.seed
    rates = {"relu": arguments.relu_rates, "tanh": arguments.tanh_rates}
    data = described(images, labels)
    shared = {"--seed": seed, "--precision": "bfloat16" if low else "float32", **data}
    shared["--target"] = arguments.target
    # What the folder holds is looked at before hours are spent.
    racers = {
        activation: [
            Racer(out / f"{activation}-{r:g}", activation, r, seed, low, data) for r in rates[activation]
        ]
        for activation in arguments.activations
    }
    found: dict[str, dict[str, Any] | None]
    found = {a: earlier_record(out / f"{a}.json", shared) for a in PAPER if a not in racers}
    for activation, candidates in racers.items():
        winner = choose(candidates, images, labels, arguments.target, arguments.max_epochs)
        record: dict[str, Any] = {
            "rate": winner.rate,
            "epochs": winner.reached(arguments.target),
            "curve": winner.curve,
            "settings": shared,
        }
        write_atomically(out / f"{activation}.json", json.dumps(record).encode())
        found[activation] = record
    curves = {a: curve for a in PAPER if (curve := found[a])}
    figure = draw(curves, arguments.target, out)
    for line in conclusion(curves, arguments.target):
        print(line)
    print(f"the curves: {figure}", flush=True)


def described(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, Any]:
    """What a curve says of the pictures it was made with."""
    digest = hashlib.sha256(images.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return {"the number of images": len(images), "the images' SHA-256": digest.hexdigest()[:16]}


def earlier_record(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The curve that an earlier command of these settings left, None where there is none."""
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        found = dict(record["settings"])
    except (ValueError, KeyError, TypeError):
        raise unreadable(path, "it does not say what it was made with") from None
    refuse_other_settings(path, differences(found, settings))
    return record


def conclusion(found: dict[str, dict[str, Any]], target: float) -> list[str]:
    """What was found, a line each; the paper's figure beside it where it is the paper's target."""
    lines = []
    for activation, record in found.items():
        epochs, asked = record["epochs"], f"{100 * target:g} %"
        last = record["curve"][-1][0]
        said = f"not at {asked} after {last:g}" if epochs is None else f"at {asked} after {epochs:.1f}"
        paper = f" (paper: about {PAPER[activation]})" if target == 0.25 else ""
        lines.append(f"{activation}, rate {record['rate']:g}: {said} epochs{paper}")
    if len(found) == len(PAPER):
        curves = [found[activation]["curve"] for activation in PAPER]
        # Where one has not come as far, the lowest error that both have reached.
        level = max(target, *(min(error for _, error in curve) for curve in curves))
        relu, tanh = (reached(curve, level) for curve in curves)
        if relu and tanh:
            paper = " (paper: six times)" if level == target == 0.25 else ""
            lines.append(f"to {100 * level:.1f} % ReLU is {tanh / relu:.1f} times faster{paper}")
    return lines


def draw(found: dict[str, dict[str, Any]], target: float, folder: Path) -> Path:
    """Write folder/figure1.png and .svg: training error over the epochs, as the paper's Figure 1."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, style.SETTINGS)):
        made = style.figure(3.6, "CIFAR-10, four layers: ReLU and tanh")
        axes = made.subplots()
        for activation, line, colour in (("relu", "-", style.BLUE), ("tanh", "--", style.VERMILLION)):
            if activation not in found:
                continue
            record = found[activation]
            x, y = zip(*record["curve"], strict=True)
            name = {"relu": "ReLU", "tanh": "tanh"}[activation]
            label = f"{name}, rate {record['rate']:g}"
            axes.plot(x, [100 * e for e in y], line, color=colour, linewidth=1.4, label=label)
            if (epochs := record["epochs"]) is not None:
                axes.plot(epochs, 100 * target, "o", color=colour, markersize=4)
                below = (0, -14)  # points
                axes.annotate(f"{epochs:.1f}", (epochs, 100 * target), below, textcoords="offset points")
        axes.axhline(100 * target, color=style.GREY, linestyle=":", linewidth=1)
        axes.set_xlabel("epochs")
        axes.set_ylabel("training error, %")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 80)
        axes.legend(loc="upper right")
        for kind in ("png", "svg"):
            made.savefig(folder / f"figure1.{kind}", dpi=style.DPI)
    return folder / "figure1.png"
