"""The nine images that excite a unit most, as patches of the unit's receptive field, or as whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.figures import Layer, style, tiles
from trainer.figures.responses import KEPT
from trainer.figures.run_data import RunData
from trainer.figures.units import Unit, most_selective, units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERVIEW: tuple[Layer, ...] = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc8")
UNITS, OF_ONE_LAYER = 6, 4  # of each layer, half of them from each tower; of a layer that is drawn alone
TILE, GAP = 224, 20  # pixels of an image in a mosaic, and between two

FRAME = "A frame marks an image of another class."


def draw(data: RunData) -> Figure:
    """Draw some units of several layers, or those that `data` names."""
    return _one_layer(data, data.layer) if data.layer else _overview(data)


def _overview(data: RunData) -> Figure:
    """Draw a row for each layer, with 3 x 3 patches for each unit; a gap between the towers."""
    figure = _figure(7.85, f"The {KEPT} strongest of {data.described} for some units of each layer")
    half = UNITS // 2
    places = figure.subplots(len(OVERVIEW), UNITS + 1, width_ratios=[1] * half + [0.1] + [1] * half)
    for axes in places.flat:
        axes.set_axis_off()
    for layer, row in zip(OVERVIEW, np.delete(places, half, axis=1), strict=True):
        found = units(data, layer, most_selective(data, layer, UNITS))
        for axes, unit in zip(row, found, strict=False):
            _show(axes, unit.patches(), 3)
            axes.set_title(style.short(unit.title, 18), loc="center", fontsize=7, pad=3)
            _mark_others(axes, unit, 3)
        field = found[0].field
        text = f"{layer}\n{field.side} x {field.side} pixels" if field else f"{layer}\nwhole images"
        look = {"rotation": 90, "ha": "right", "va": "center", "ma": "center", "fontsize": 7}
        row[0].text(-0.06, 0.5, text, transform=row[0].transAxes, **look)
    style.note(
        figure,
        "The most selective units. Patches: the part of the image that the unit's largest output depends on; "
        f"grey: beyond its edge.\nfc8: its units are the classes. {FRAME}",
    )
    return figure


def _one_layer(data: RunData, layer: Layer) -> Figure:
    """Draw a row for each unit: its patches, and below them the images that they are from."""
    found = units(data, layer, data.units or most_selective(data, layer, OF_ONE_LAYER))
    field, scale = found[0].field, TILE / data.network.crop_size
    height = (1.72 if field else 0.95) * len(found) + (0.5 if field or layer == "fc8" else 0.3)
    figure = _figure(height, f"{layer}: the {KEPT} strongest of {data.described}")
    for axes, unit in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
        axes.set_axis_off()
        outputs = [s.output for s in unit.strongest]
        span = f"outputs {outputs[0]:.3g} to {outputs[-1]:.3g}" if outputs else "active for no image"
        axes.set_title(f"{style.short(unit.title, 60)}: {span}", fontsize=7, pad=3)
        _show(axes, unit.patches(), KEPT, unit.crops_HW3 if field else ())
        if field:
            for place, s in enumerate(unit.strongest, KEPT):
                top, left = field.corner(s.row, s.column)
                ends = (end * scale for end in (left, top, left + field.side, top + field.side))
                _outline(axes, place, KEPT, [min(max(end, 0), TILE) for end in ends], style.ORANGE)
        _mark_others(axes, unit, KEPT)
    if field:
        side = f"{field.side} x {field.side} pixels"
        style.note(figure, f"The {side} that the unit's largest output depends on, above the whole image.")
    elif layer == "fc8":
        style.note(figure, FRAME)
    return figure


def _figure(height: float, title: str) -> Figure:
    """An empty figure whose images begin below the first letter of its title."""
    empty = style.figure(height, title)
    empty.set_layout_engine("constrained", rect=(0.004, 0, 0.992, 1))
    return empty


def _show(
    axes: Axes, images: Sequence[NDArray[np.uint8]], columns: int, below: Sequence[NDArray[np.uint8]] = ()
) -> None:
    """Draw nine images in rows, and nine others below them; white where there are fewer."""
    white = np.full((TILE, TILE, 3), 255, np.uint8)
    rows = [images, below] if len(below) else [images]
    shown = [
        tile
        for row in rows
        for tile in [*(tiles.enlarge(image, TILE) for image in row), *[white] * (KEPT - len(row))]
    ]
    style.show(axes, tiles.arrange(shown, columns, GAP))


def _mark_others(axes: Axes, unit: Unit, columns: int) -> None:
    """Frame the images of another class than the unit's."""
    for place, of_other in enumerate(unit.of_others):
        if of_other:
            _outline(axes, place, columns, [-6, -6, TILE + 6, TILE + 6], style.VERMILLION)


def _outline(axes: Axes, place: int, columns: int, box: Sequence[float], color: str) -> None:
    """Outline a part of the image at a place of the mosaic; box: left, top, right, bottom in its pixels."""
    from matplotlib.patches import Rectangle

    row, column = divmod(place, columns)
    left, top, right, bottom = box
    origin = column * (TILE + GAP) + left - 0.5, row * (TILE + GAP) + top - 0.5
    size = right - left, bottom - top
    axes.add_patch(Rectangle(origin, *size, fill=False, color=color, linewidth=1.2, clip_on=False))
