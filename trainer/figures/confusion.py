"""The confusion matrix of the validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.run_data import RunData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 20  # more names and numbers could not be read on a page


def draw(data: RunData) -> Figure:
    """Draw a row for each true class and a column for each predicted class, as shares of the row."""
    labels, predictions = data.val_labels, data.val_probabilities.argmax(1)
    counts = confusion(labels, predictions, len(data.network.classes))
    shown = most_confused(counts, MOST_CLASSES)
    all_shown = len(shown) == len(counts)
    which = "all classes" if all_shown else f"the {len(shown)} most confused of {len(counts):,} classes"
    figure = style.figure(5.7, f"Confusion of {which} over {len(labels):,} validation images")
    axes = figure.subplots()
    share = counts[np.ix_(shown, shown)] / np.maximum(counts[shown].sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
    for row, column in np.argwhere(share > 0):
        value = share[row, column]
        text = f"{100 * value:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color="k" if value > 0.5 else "w")
    names = [style.short(data.network.name(int(index)), 22) for index in shown]
    axes.set_xticks(range(len(shown)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(
        image, ax=axes, label="share of the row, %", shrink=0.8, format=lambda v, _: f"{100 * v:.0f}"
    )
    return figure


def confusion(
    labels_N: NDArray[np.int64], predictions_N: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Counts int64 [K, K]: the row is the true class, the column the predicted one."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels_N, predictions_N), 1)
    return counts


def most_confused(counts_KK: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Indices of at most `limit` classes, in their order: those of the most frequent confusions."""
    classes = len(counts_KK)
    if classes <= limit:
        return np.arange(classes)
    wrong = counts_KK * ~np.eye(classes, dtype=bool)
    pairs = np.stack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape), 1)
    chosen: set[int] = set()
    for pair in pairs:
        new = set(pair.tolist())
        if len(chosen | new) > limit:
            break
        chosen |= new
    return np.array(sorted(chosen), np.int64)
