"""The filters of conv1, tower a's above tower b's: the paper's Figure 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 16  # three rows of a tower's 48, as in the paper
GAP = 1  # pixels between filters of 11 pixels


def draw(subject: Subject) -> Figure:
    """One sheet a tower."""
    weights = {tower.name: tower.conv1.weight.detach().cpu().numpy() for tower in subject.trained.towers}
    sheets = {name: sheet(w) for name, w in weights.items()}
    height, width = next(iter(sheets.values())).shape[:2]
    each = height / width * (style.WIDTH - 0.4) + 0.1  # inches
    count = sum(len(w) for w in weights.values())
    made = style.figure(
        0.4 + each * len(sheets), f"The {count} filters of conv1, {weights['a'].shape[2]} pixels wide"
    )
    places = made.subplots(len(sheets), squeeze=False)[:, 0]
    for axes, (name, image) in zip(places, sheets.items(), strict=True):
        style.show(axes, image, interpolation="nearest")
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[], ylabel=f"tower {name}")
        axes.spines[:].set_visible(False)
    return made


def sheet(weights_FCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filters [F, 3, side, side] side by side as one picture 0..1, [height, width, 3], white between them.

    Grey is 0; each filter's largest weight, by its absolute value, is full colour.
    """
    filters = weights_FCHW.transpose(0, 2, 3, 1)
    count, side = filters.shape[:2]
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    tiles = 0.5 + 0.5 * filters / np.maximum(largest, np.finfo(np.float32).tiny)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    page = np.ones((rows * (side + GAP) - GAP, columns * (side + GAP) - GAP, 3), np.float32)
    for index, tile in enumerate(tiles):
        top, left = (place * (side + GAP) for place in divmod(index, columns))
        page[top : top + side, left : left + side] = tile
    return page
