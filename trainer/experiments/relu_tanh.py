"""The paper's Figure 1: epochs to 25 % training error on CIFAR-10, with ReLU and with tanh."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray

from preprocess.shared import json_files
from preprocess.shared.files import write_atomically
from trainer.errors import require_output
from trainer.experiments import cifar
from trainer.experiments.arguments import ReluVsTanh as Arguments
from trainer.experiments.same_settings import cannot_continue, differences, require_same_settings
from trainer.experiments.trial import Trial, epochs_to
from trainer.figures import style

RUNGS = ((1, 3), (3, 2), (9, 1))
"""Successive halving: after these epochs this number of learning rates is trained further. More than one, for
the fastest at first may be too high later."""
PAPER = {"relu": 6, "tanh": 36}
"""Epochs to 25 %, read from the paper's Figure 1; its caption gives a factor of six."""


def best_trial(
    trials: list[Trial], images: NDArray[np.uint8], labels: NDArray[np.int64], target: float, limit: int
) -> Trial:
    """The fastest trial by successive halving, trained to the target or to the limit of epochs."""

    def advance(trial: Trial, epochs: int) -> None:
        while trial.epochs < min(epochs, limit) and trial.epochs_to(target) is None:
            trial.train_epoch(images, labels)
            print(
                f"{trial.activation}, learning rate {trial.lr:g}: epoch {trial.epochs}, "
                f"training error {100 * trial.error:.1f} %",
                flush=True,
            )

    for rung, count in RUNGS:
        for trial in trials:
            advance(trial, rung)

        # By the error at this epoch: a learning rate that is added later meets trials of more epochs.
        def rank(trial: Trial, rung: int = rung) -> tuple[float, float]:
            return trial.epochs_to(target) or math.inf, trial.error_after(rung)

        trials = sorted(trials, key=rank)[:count]
    advance(trials[0], limit)
    return trials[0]


def run(arguments: Arguments) -> None:
    """Train what is missing in the folder, draw the figure, and print the comparison."""
    style.require_matplotlib()  # before hours are spent on training
    require_output(arguments.out / "relu.json")
    torch.set_num_threads(arguments.threads)
    images, labels = cifar.read(arguments.data or cifar.find())
    if arguments.images is not None:  # a random part: class folders are sorted by class
        part = np.random.default_rng(arguments.seed).permutation(len(images))[: arguments.images]
        images, labels = images[part], labels[part]
    from trainer.parallel.device import resolve_precision  # here, for it imports MPI

    bfloat16 = resolve_precision(arguments.precision, torch.device("cpu")) == "bfloat16"
    print(f"{len(images):,} images, {'bfloat16' if bfloat16 else 'float32'}", flush=True)
    out, seed = arguments.out, arguments.seed
    lrs = {"relu": arguments.relu_rates, "tanh": arguments.tanh_rates}
    data = data_settings(images, labels)
    shared = {"--seed": seed, "--precision": "bfloat16" if bfloat16 else "float32", **data}
    shared["--target"] = arguments.target
    # The settings of the folder's files are compared before hours are spent.
    trials = {
        activation: [
            Trial(out / f"{activation}-{lr:g}", activation, lr, seed, bfloat16, data)
            for lr in lrs[activation]
        ]
        for activation in arguments.activations
    }
    found: dict[str, dict[str, Any] | None]
    found = {a: earlier_record(out / f"{a}.json", shared) for a in PAPER if a not in trials}
    for activation, candidates in trials.items():
        best = best_trial(candidates, images, labels, arguments.target, arguments.max_epochs)
        record: dict[str, Any] = {
            "rate": best.lr,
            "epochs": best.epochs_to(arguments.target),
            "curve": best.curve,
            "settings": shared,
        }
        write_atomically(out / f"{activation}.json", json.dumps(record).encode())
        found[activation] = record
    records = {a: r for a in PAPER if (r := found[a])}
    figure = draw(records, arguments.target, out)
    for line in conclusion(records, arguments.target):
        print(line)
    print(f"the curves: {figure}", flush=True)


def data_settings(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, Any]:
    """The number and the SHA-256 of the images and labels, as a curve's file records them."""
    digest = hashlib.sha256(images.tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return {"the number of images": len(images), "the images' SHA-256": digest.hexdigest()[:16]}


class _Record(TypedDict):
    settings: dict[str, Any]
    rate: float
    epochs: float | None
    curve: list[tuple[float, float]]


def earlier_record(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier command with these settings; None where there is none.

    Raises UserError when its settings differ or are missing.
    """
    if not path.exists():
        return None
    try:
        record = json_files.read(path, _Record, "it")
    except json_files.JsonError as error:
        raise cannot_continue(path, error) from None
    require_same_settings(path, differences(record["settings"], settings))
    return {**record}


def conclusion(records: dict[str, dict[str, Any]], target: float) -> list[str]:
    """The results, a line each, next to the paper's where the target is the paper's."""
    lines = []
    for activation, record in records.items():
        epochs, percent = record["epochs"], f"{100 * target:g} %"
        last = record["curve"][-1][0]
        result = f"not at {percent} after {last:g}" if epochs is None else f"at {percent} after {epochs:.1f}"
        paper = f" (paper: about {PAPER[activation]})" if target == 0.25 else ""
        lines.append(f"{activation}, learning rate {record['rate']:g}: {result} epochs{paper}")
    if len(records) == len(PAPER):
        curves = [records[activation]["curve"] for activation in PAPER]
        # Where one has not reached the target: the lowest error that both have reached.
        level = max(target, *(min(error for _, error in curve) for curve in curves))
        relu, tanh = (epochs_to(curve, level) for curve in curves)
        if relu and tanh:
            paper = " (paper: six times)" if level == target == 0.25 else ""
            lines.append(f"to {100 * level:.1f} % ReLU is {tanh / relu:.1f} times faster{paper}")
    return lines


def draw(records: dict[str, dict[str, Any]], target: float, folder: Path) -> Path:
    """Write folder/figure1.png and .svg: training error over the epochs, as in the paper's Figure 1."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, style.SETTINGS)):
        figure = style.figure(3.6, "CIFAR-10, four layers: ReLU and tanh")
        axes = figure.subplots()
        for activation, line, colour in (("relu", "-", style.BLUE), ("tanh", "--", style.VERMILLION)):
            if activation not in records:
                continue
            record = records[activation]
            x, y = zip(*record["curve"], strict=True)
            name = {"relu": "ReLU", "tanh": "tanh"}[activation]
            label = f"{name}, learning rate {record['rate']:g}"
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
            style.write(figure, folder / f"figure1.{kind}")
    return folder / "figure1.png"
