"""Eight validation images with their five most probable classes, as in the paper's Figure 4, left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.run_data import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES, CLASSES = 8, 5


def draw(data: RunData) -> Figure:
    """Draw two rows of four images, each above the bars of its probabilities."""
    chosen = data.of_different_classes(IMAGES)
    images = data.val.read(chosen)
    figure = style.figure(6.0, "Validation images, with the five most probable classes")
    columns = IMAGES // 2
    places = figure.subplots(4, columns, height_ratios=(1.6, 1, 1.6, 1), squeeze=False)
    for axes in places.flat:
        axes.set_axis_off()
    for place, (index, image) in enumerate(zip(chosen, images, strict=True)):
        row, column = divmod(place, columns)
        above, below = places[2 * row, column], places[2 * row + 1, column]
        truth = int(data.val_labels[index])
        style.show(above, image)
        above.set_title(style.short(data.network.name(truth), 24), loc="center")
        below.set_axis_on()
        bars(below, data.val_probabilities[index], truth, data.network.name)
    figure.supxlabel("orange, bold: the true class", fontsize=8, color=style.GREY)
    return figure


def bars(axes: Axes, p_K: NDArray[np.float32], truth: int | None, name: Callable[[int], str]) -> None:
    """Draw the most probable classes as bars from 0 to 1, with their names; `truth`, if known, in orange."""
    best = np.argsort(-p_K, kind="stable")[:CLASSES]
    colors = [style.ORANGE if index == truth else style.BLUE for index in best]
    axes.barh(range(len(best)), p_K[best], color=colors, alpha=0.5, height=0.85)
    for place, index in enumerate(best):
        weight = "bold" if index == truth else "normal"
        axes.text(0.02, place, style.short(name(int(index)), 26), va="center", fontsize=7, weight=weight)
    axes.set(xlim=(0, 1), ylim=(len(best) - 0.5, -0.5), xticks=[0, 0.5, 1], yticks=[])
    axes.set_xticklabels(["0", "0.5", "1"], fontsize=6)
    axes.tick_params(length=2, pad=1)
