"""Training pictures whose last hidden layer is nearest to a validation picture's: Figure 4, right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, NEAREST = 5, 6
LETTERS = 16  # of a class's name, as wide as a picture; bold ones are wider


def draw(subject: Subject) -> Figure:
    """A validation picture in the first column, the nearest of the training set beside it."""
    val, train = subject.store.val, subject.store.train
    queries = subject.of_different_classes(ROWS)
    asked = val.read(queries)
    features = subject.over(train, subject.trained.features)
    found = nearest(subject.trained.features(asked), features, NEAREST)
    made = style.figure(
        1.05 * len(queries) + 0.5,
        f"Validation pictures, and the nearest of {len(features):,} training pictures by fc7",
    )
    columns = found.shape[1]
    places = made.subplots(len(queries), columns + 1, squeeze=False)
    for row, which in enumerate(queries):
        truth = int(val.labels[which])
        style.show(places[row, 0], asked[row])
        places[row, 0].set_title(style.short(subject.name(truth), LETTERS - 3), weight="bold", fontsize=7)
        for column, picture in enumerate(train.read(found[row])):
            axes, label = places[row, column + 1], int(train.labels[found[row, column]])
            style.show(axes, picture)
            how = {} if label == truth else {"color": style.VERMILLION, "style": "italic"}
            axes.set_title(style.short(subject.name(label), LETTERS), fontsize=7, **how)
    made.supxlabel("in colour, slanted: another class than the first picture's", fontsize=8, color=style.GREY)
    return made


def nearest(asked_AF: NDArray[np.float32], known_NF: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """For each row of `asked` the rows of `known` at the smallest Euclidean distances, int64 [A, count]."""
    # |a - n|^2 = |a|^2 - 2 a n + |n|^2, of which |a|^2 is the same for all n.
    distances_AN = (known_NF**2).sum(1) - 2 * asked_AF @ known_NF.T
    return np.argsort(distances_AN, axis=1, kind="stable")[:, :count]
