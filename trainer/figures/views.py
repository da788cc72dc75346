"""Views of one image: the ten crops of evaluation, the PCA colour shifts of training (paper, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import augmentation
from trainer.figures import style
from trainer.figures.run_data import RunData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE)
LINES = ("-", "--", "-.", ":", (0, (1, 1)))


def ten_crops(data: RunData) -> Figure:
    """Draw the image with five crops outlined, and the ten views, each with the true class's probability."""
    image, truth = data.example()
    size = data.network.crop_size
    views = augmentation.ten_crops(len(image), size)
    p = np.array([_probability(data, image, view, truth) for view in views])
    figure = style.figure(
        2.9, f"Ten crops of one image, with the probability of {style.short(data.network.name(truth), 30)}"
    )
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.3), squeeze=False)[0]
    whole = left.subplots()
    style.show(whole, image)
    for inset, ((top, at, _), color, line) in enumerate(zip(views, COLORS, LINES, strict=False)):
        # Common edges of two crops are drawn 2 pixels apart.
        _outline(whole, at + 2 * inset, top + 2 * inset, size - 4 * inset, color, line)
    whole.set_title(f"crops of {size} in {len(image)} pixels", loc="center", fontsize=7)
    for axes, view, color, value, place in zip(
        right.subplots(2, 5).flat, views, 2 * COLORS, p, 2 * PLACES, strict=True
    ):
        style.show(axes, crop(image, size, *view))
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=color, linewidth=1.5)
        title = "flipped" if view[2] else place
        axes.set_title(f"{title}\n{value:.3f}", loc="center", fontsize=7)
    left.supxlabel(f"average of the ten: {p.mean():.3f}", fontsize=8)
    return figure


def crop(image_SS3: NDArray[np.uint8], size: int, top: int, left: int, flip: bool) -> NDArray[np.uint8]:
    """One view as an image, uint8 [size, size, 3]: the mean image is not subtracted."""
    part = image_SS3[top : top + size, left : left + size]
    return part[:, ::-1] if flip else part


def _probability(
    data: RunData, image_SS3: NDArray[np.uint8], view: tuple[int, int, bool], index: int
) -> float:
    """The softmax output of one class for one view."""
    inputs = data.network.inputs(image_SS3[None], view)
    return float(data.network.logits(inputs).softmax(1)[0, index])


def _outline(axes: Any, left: float, top: float, side: float, color: str, line: Any) -> None:
    """Draw the outline of a crop, in pixels of the image."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, top), side, side, fill=False, color=color, linestyle=line, linewidth=1.2))


def color_range(data: RunData) -> Figure:
    """Draw one image shifted along each principal axis of its colours by -2 to 2 standard deviations."""
    image, _ = data.example()
    std = data.network.config.augment.color_std or 0.1  # the paper's, where the run had none
    axes_33 = augmentation.color_axes(data.store.eigenvalues, data.store.eigenvectors)
    amounts = np.array([-2, -1, 0, 1, 2])
    figure = style.figure(4.9, f"PCA colour: shifts of one image, in standard deviations of {std:g}")
    places = figure.subplots(3, len(amounts))
    for component, row in enumerate(places):
        for axes, amount in zip(row, amounts, strict=True):
            shift = amount * std * axes_33[:, component]
            style.show(axes, np.clip(np.rint(image + shift), 0, 255).astype(np.uint8))
            rgb = " ".join(f"{round(value):+d}" for value in shift)
            axes.set_title(f"{amount:+d}: {rgb}" if amount else "0", fontsize=7, loc="center")
        spread = np.sqrt(data.store.eigenvalues[component])
        row[0].set_axis_on()
        row[0].set(xticks=[], yticks=[], ylabel=f"component {component + 1}\nstd. deviation {spread:.0f}")
        row[0].spines[:].set_visible(False)
    figure.supxlabel("shift of red, green and blue above each image, on the scale 0 to 255", fontsize=8)
    return figure
