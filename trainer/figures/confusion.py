"""Which classes are taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGIBLE = 20  # classes whose names and counts can be read on a page


def draw(subject: Subject) -> Figure:
    """Rows: the true class; columns: the first guess; each field the share of its row."""
    labels, guesses = subject.val_labels, subject.val_probabilities.argmax(1)
    counts = confusion(labels, guesses, len(subject.trained.classes))
    shown = most_confused(counts, LEGIBLE)
    everyone = len(shown) == len(counts)
    which = "all classes" if everyone else f"the {len(shown)} most confused of {len(counts):,} classes"
    made = style.figure(5.7, f"Confusion of {which} over {len(labels):,} validation pictures")
    axes = made.subplots()
    share = counts[np.ix_(shown, shown)] / np.maximum(counts[shown].sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
    for row, column in np.argwhere(share > 0):
        value = share[row, column]
        text = f"{100 * value:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color="k" if value > 0.5 else "w")
    names = [style.short(subject.name(int(index)), 22) for index in shown]
    axes.set_xticks(range(len(shown)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel="first guess", ylabel="true class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    made.colorbar(
        image, ax=axes, label="share of the row, %", shrink=0.8, format=lambda v, _: f"{100 * v:.0f}"
    )
    return made


def confusion(labels_N: NDArray[np.int64], guesses_N: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts [K, K]: row by true class, column by guess."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels_N, guesses_N), 1)
    return counts


def most_confused(counts_KK: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """All classes where there are few; else those of the most frequent confusions, in the classes' order."""
    classes = len(counts_KK)
    if classes <= limit:
        return np.arange(classes)
    wrong = counts_KK * ~np.eye(classes, dtype=bool)
    pairs = np.stack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape), 1)
    chosen: dict[int, None] = {}
    for pair in pairs:
        new = {int(index): None for index in pair}
        if len(chosen | new) > limit:
            break
        chosen |= new
    return np.sort(np.array(list(chosen), np.int64))
