"""Training images with the features nearest to a validation image's, as in the paper's Figure 4, right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.run_data import RunData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, NEAREST = 5, 6
LETTERS = 16  # of a class's name, as wide as an image; bold ones are wider


def draw(data: RunData) -> Figure:
    """Draw a row for each validation image: the image, then the training images nearest to it by fc7."""
    val, train, network = data.val, data.store.train, data.network
    chosen = data.of_different_classes(ROWS)
    queries = val.read(chosen)
    features = data.compute(train, lambda images: network.features(images)["fc7"])
    found = nearest(network.features(queries)["fc7"], features, NEAREST)
    figure = style.figure(
        1.05 * len(chosen) + 0.5,
        f"Validation images, and the nearest of {len(features):,} training images by fc7",
    )
    columns = found.shape[1]
    places = figure.subplots(len(chosen), columns + 1, squeeze=False)
    for row, index in enumerate(chosen):
        truth = int(val.labels[index])
        style.show(places[row, 0], queries[row])
        places[row, 0].set_title(style.short(network.name(truth), LETTERS - 3), weight="bold", fontsize=7)
        for column, image in enumerate(train.read(found[row])):
            axes, label = places[row, column + 1], int(train.labels[found[row, column]])
            style.show(axes, image)
            look = {} if label == truth else {"color": style.VERMILLION, "style": "italic"}
            axes.set_title(style.short(network.name(label), LETTERS), fontsize=7, **look)
    figure.supxlabel(
        "in colour, slanted: another class than the validation image's", fontsize=8, color=style.GREY
    )
    return figure


def nearest(queries_QF: NDArray[np.float32], keys_NF: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """For each query, the indices of the keys at the smallest Euclidean distances, int64 [Q, count]."""
    # |q - n|^2 = |q|^2 - 2 q n + |n|^2, of which |q|^2 is the same for all n.
    distances_QN = (keys_NF**2).sum(1) - 2 * queries_QF @ keys_NF.T
    return np.argsort(distances_QN, axis=1, kind="stable")[:, :count]
