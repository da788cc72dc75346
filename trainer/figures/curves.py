"""Learning curves: loss, validation error and learning rate over the epochs, with its drops marked."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import UserError
from trainer.figures import style
from trainer.figures.run_data import RunData
from trainer.runs.log import having

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 600  # of a curve; more would not be visible and make a large file
DROP = 2.0  # the factor of a drop at least; the paper divides the learning rate by 10


def draw(data: RunData) -> Figure:
    """Draw a panel for each curve, with one axis of epochs. Raises UserError for a log without losses."""
    steps = having(data.log, "loss", "lr", "epoch")
    epochs = having(data.log, "val_top1_error", "val_top5_error", "epoch")
    if not steps:
        raise UserError("there is no log with losses")
    figure = style.figure(5.2 if epochs else 3.4, "Learning curves")
    heights = (3, 3, 1.4) if epochs else (3, 1.4)
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    loss, lr = panels[0], panels[-1]
    loss.plot(*thinned(steps, "loss"), color=style.BLUE, linewidth=1)
    loss.set_ylabel("training loss")
    if epochs:
        _errors(panels[1], epochs)
    lr.plot(*thinned(steps, "lr"), color=style.GREY, linewidth=1)
    lr.set(ylabel="learning rate", xlabel="epoch", xlim=(0, None))
    for axes in panels:
        axes.set_ylim(bottom=0)
    # A cosine's last steps differ by more than DROP too.
    found = [] if data.network.config.optim.schedule == "cosine" else drops(steps)
    if found:
        lr.set_yscale("log")
        lr.set_ylim(bottom=0.5 * min(line["lr"] for line in steps))
    for epoch, before, after in found:
        for axes in panels:
            axes.axvline(epoch, color=style.GREY, linestyle=(0, (4, 3)), linewidth=0.8, zorder=0)
        text = f"{before:.2g} → {after:.2g}"
        loss.annotate(text, (epoch, 1.0), (2, -8), loss.get_xaxis_transform(), "offset points")
    return figure


def together(logs: dict[str, list[dict[str, Any]]]) -> Figure:
    """Draw the training loss and the top-1 validation error of several runs, by name, over their epochs.

    Raises UserError for a log without losses.
    """
    figure = style.figure(4.6, "Learning curves")
    loss, error = figure.subplots(2, sharex=True)
    for number, (name, log) in enumerate(logs.items()):
        steps = having(log, "loss", "epoch")
        if not steps:
            raise UserError(f"the log of {name} has no losses yet")
        look = {"color": style.COLORS[number % len(style.COLORS)], "linewidth": 1}
        loss.plot(*thinned(steps, "loss"), label=style.short(name, 60), **look)
        epochs = having(log, "val_top1_error", "epoch")
        at, percent = [line["epoch"] for line in epochs], [100 * line["val_top1_error"] for line in epochs]
        error.plot(at, percent, marker="os^Dv"[number % 5], markersize=4, clip_on=False, **look)
    loss.set(ylabel="training loss", ylim=(0, None))
    error.set(ylabel="top-1 validation error, %", xlabel="epoch", ylim=(0, 100), xlim=(0, None))
    loss.legend(loc="lower left", frameon=True, facecolor="white", edgecolor="none", framealpha=1)
    return figure


def _errors(axes: Axes, epochs: list[dict[str, Any]]) -> None:
    """Draw the top-1 and the top-5 validation error."""
    for name, label, color, marker in (
        ("val_top1_error", "top-1", style.VERMILLION, "o"),
        ("val_top5_error", "top-5", style.GREEN, "s"),
    ):
        at = [line["epoch"] for line in epochs]
        percent = [100 * line[name] for line in epochs]
        axes.plot(
            at, percent, color=color, marker=marker, markersize=3, linewidth=1, label=label, clip_on=False
        )
    axes.set_ylabel("validation error, %")
    axes.legend(loc="upper right", ncols=2, frameon=True, facecolor="white", edgecolor="none", framealpha=1)


def thinned(lines: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of at most POINTS points, each the mean of neighbouring lines."""
    each = -(-len(lines) // POINTS)
    groups = [lines[first : first + each] for first in range(0, len(lines), each)]
    at = [float(np.mean([line["epoch"] for line in group])) for group in groups]
    return at, [float(np.mean([line[name] for line in group])) for group in groups]


def drops(lines: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """Where the learning rate is divided by DROP or more at once: (epoch, learning rate before, after)."""
    return [
        (after["epoch"], before["lr"], after["lr"])
        for before, after in pairwise(lines)
        if before["lr"] >= DROP * after["lr"] > 0
    ]
