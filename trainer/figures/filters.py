"""The filters of conv1, tower a's above tower b's, as in the paper's Figure 3, with measures of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.figures import style, tiles
from trainer.figures.run_data import RunData
from trainer.model import filter_measures
from trainer.model.filter_measures import COLOURED, FilterMeasures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 16  # three rows of a tower's 48, as in the paper
GAP = 1  # pixels between filters of 11 pixels
# Inches.
LEFT, TEXT = 0.07, 5.1  # from the page's edge to the grids, and to the text next to them
GRID = 4.85  # width of the grids at most
LINE, BETWEEN = 0.155, 0.28  # from one line of text to the next, between the towers

NOTES = (
    "Each filter is scaled by its largest weight; grey is 0. Its mean is taken off for the measures.",
    "Share of colour: the part of the squares that the mean of red, green and blue leaves; noise 0.67.",
    f"Filters of colour: with a share of {COLOURED} or more. Correlation: of neighbouring weights; noise 0.",
)


def draw(data: RunData) -> Figure:
    """Draw a grid of filters for each tower, every weight as a square of whole pixels of the PNG."""
    weights = {tower.name: tower.conv1.weight.detach().cpu().numpy() for tower in data.network.towers}
    measures: dict[str, FilterMeasures] = {name: filter_measures.measure(w) for name, w in weights.items()}
    each = min(int(GRID * style.DPI) // grid(weights["a"]).shape[1], 12)  # pixels of the PNG for a weight
    pages = {name: np.kron(grid(w), np.ones((each, each, 1))) for name, w in weights.items()}
    height = max(pages["a"].shape[0] / style.DPI, 5 * LINE)
    warning = filter_measures.warning(measures)
    total = 0.4 + len(pages) * (height + BETWEEN) + LINE * (len(NOTES) + (warning is not None)) + 0.05
    count = sum(len(w) for w in weights.values())
    figure = style.figure(total, f"The {count} filters of conv1, {weights['a'].shape[2]} pixels wide")
    figure.set_layout_engine("none")

    def write(text: str, x: float, y: float, **look: Any) -> None:
        figure.text(x / style.WIDTH, 1 - y / total, text, va="top", **look)

    y = 0.4
    for name, page in pages.items():
        tall, wide = (pixels / style.DPI for pixels in page.shape[:2])
        place = LEFT / style.WIDTH, 1 - (y + tall) / total, wide / style.WIDTH, tall / total
        style.show(figure.add_axes(place), page, interpolation="none")
        write(f"Tower {name}", TEXT, y, weight="bold")
        for line, (value, label) in enumerate(_lines(measures[name]), 1):
            write(value, TEXT + 0.36, y + line * LINE, ha="right")
            write(label, TEXT + 0.42, y + line * LINE)
        y += height + BETWEEN
    if warning:
        write(warning, LEFT, y, fontsize=7, color=style.VERMILLION, weight="bold")
        y += LINE
    for line, note in enumerate(NOTES):
        write(note, LEFT, y + line * LINE, fontsize=7, color=style.GREY)
    return figure


def _lines(measures: FilterMeasures) -> list[tuple[str, str]]:
    """A tower's measures and their names."""
    return [
        (f"{measures.filters}", "filters"),
        (f"{measures.coloured}", "filters of colour"),
        (f"{measures.colour:.2f}", "mean share of colour"),
        (f"{round(measures.correlation, 2) + 0:.2f}", "mean correlation"),  # not -0.00
    ]


def grid(weights_FCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Arrange filters [F, 3, side, side] in rows of one image [height, width, 3], 0..1, white between them.

    Grey is 0. Each filter is scaled by its largest absolute weight.
    """
    filters = weights_FCHW.transpose(0, 2, 3, 1)
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    return tiles.arrange(
        [*(0.5 + 0.5 * filters / np.maximum(largest, np.finfo(np.float32).tiny))], COLUMNS, GAP
    )
