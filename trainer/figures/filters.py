"""The filters of conv1, tower a's above tower b's, as in the paper's Figure 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style
from trainer.figures.run_data import RunData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 16  # three rows of a tower's 48, as in the paper
GAP = 1  # pixels between filters of 11 pixels


def draw(data: RunData) -> Figure:
    """Draw a grid of filters for each tower."""
    weights = {tower.name: tower.conv1.weight.detach().cpu().numpy() for tower in data.network.towers}
    grids = {name: grid(w) for name, w in weights.items()}
    height, width = next(iter(grids.values())).shape[:2]
    each = height / width * (style.WIDTH - 0.4) + 0.1  # inches
    count = sum(len(w) for w in weights.values())
    figure = style.figure(
        0.4 + each * len(grids), f"The {count} filters of conv1, {weights['a'].shape[2]} pixels wide"
    )
    places = figure.subplots(len(grids), squeeze=False)[:, 0]
    for axes, (name, image) in zip(places, grids.items(), strict=True):
        style.show(axes, image, interpolation="nearest")
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[], ylabel=f"tower {name}")
        axes.spines[:].set_visible(False)
    return figure


def grid(weights_FCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Arrange filters [F, 3, side, side] in rows of one image [height, width, 3], 0..1, white between them.

    Grey is 0. Each filter is scaled by its largest absolute weight.
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
