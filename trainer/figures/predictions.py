"""Eight validation pictures with the five classes that the network finds most probable: Figure 4, left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES, GUESSES = 8, 5


def draw(subject: Subject) -> Figure:
    """Two rows of four."""
    chosen = subject.of_different_classes(PICTURES)
    pictures = subject.store.val.read(chosen)
    made = style.figure(6.0, "Validation pictures, with the five most probable classes")
    columns = PICTURES // 2
    places = made.subplots(4, columns, height_ratios=(1.6, 1, 1.6, 1), squeeze=False)
    for axes in places.flat:
        axes.set_axis_off()
    for index, (which, picture) in enumerate(zip(chosen, pictures, strict=True)):
        row, column = divmod(index, columns)
        above, below = places[2 * row, column], places[2 * row + 1, column]
        truth = int(subject.val_labels[which])
        style.show(above, picture)
        above.set_title(style.short(subject.name(truth), 24), loc="center")
        below.set_axis_on()
        bars(below, subject.val_probabilities[which], truth, subject.name)
    made.supxlabel("orange, bold: the picture's own class", fontsize=8, color=style.GREY)
    return made


def bars(axes: Axes, p_K: NDArray[np.float32], truth: int | None, name: Callable[[int], str]) -> None:
    """The most probable classes as bars from 0 to 1, their names on them."""
    best = np.argsort(-p_K, kind="stable")[:GUESSES]
    colors = [style.ORANGE if index == truth else style.BLUE for index in best]
    axes.barh(range(len(best)), p_K[best], color=colors, alpha=0.5, height=0.85)
    for place, index in enumerate(best):
        weight = "bold" if index == truth else "normal"
        axes.text(0.02, place, style.short(name(int(index)), 26), va="center", fontsize=7, weight=weight)
    axes.set(xlim=(0, 1), ylim=(len(best) - 0.5, -0.5), xticks=[0, 0.5, 1], yticks=[])
    axes.set_xticklabels(["0", "0.5", "1"], fontsize=6)
    axes.tick_params(length=2, pad=1)
