"""The outputs of each layer over many images: their mean, and the share that is active, for each tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.figures import style
from trainer.figures.run_data import LAYERS, RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = LAYERS[:-1]  # fc8 has no activation function


def draw(data: RunData) -> Figure:
    """Draw two panels next to each other, with a mark for each layer and tower."""
    from matplotlib.ticker import LogLocator

    found, towers = data.responses, [tower.name for tower in data.network.towers]
    figure = style.figure(3.1, f"Outputs of the layers after the activation function, {data.described}")
    left, right = figure.subplots(1, 2)
    means = {layer: np.split(found[layer].mean(), len(towers)) for layer in SHOWN}
    active = {layer: np.split(found[layer].active(), len(towers)) for layer in SHOWN}
    for number, tower in enumerate(towers):
        label = f"tower {tower}"
        _draw(left, number, [float(means[layer][number].mean()) for layer in SHOWN], label)
        _draw(right, number, [100 * float(active[layer][number].mean()) for layer in SHOWN], label)
    left.set_title("Mean output")
    left.legend()
    if min(part.mean() for parts in means.values() for part in parts) > 0:
        left.set_yscale("log")
        # 0.1, 0.2, 0.5, 1, 2, ...: matplotlib's own are powers of ten.
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("")
    right.set_title("Share of outputs above 0, %")
    right.set_ylim(0, 100)
    for axes in (left, right):
        axes.set_xticks(range(len(SHOWN)), SHOWN)
        axes.set_xlim(-0.4, len(SHOWN) - 0.6)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _draw(axes: Axes, number: int, values: list[float], label: str) -> None:
    """Draw the values of one tower, a little beside those of the other."""
    at = np.arange(len(values)) + (0.08 if number else -0.08)
    marker = "os"[number]
    axes.plot(at, values, marker=marker, markersize=5, linewidth=0.8, color=style.COLORS[number], label=label)
