"""What one picture becomes: ten crops in evaluation, a range of PCA colours in training (paper 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import augmentation
from trainer.figures import style
from trainer.figures.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE)
LINES = ("-", "--", "-.", ":", (0, (1, 1)))


def ten_crops(subject: Subject) -> Figure:
    """The whole picture with the five places, and the ten views with what the network makes of each."""
    picture, truth = subject.example()
    cuts = augmentation.ten_crops(len(picture))
    p = np.array([_probability(subject, picture, view, truth) for view in cuts])
    made = style.figure(
        2.9, f"Ten crops of one picture, with the probability of {style.short(subject.name(truth), 30)}"
    )
    left, right = made.subfigures(1, 2, width_ratios=(1, 2.3), squeeze=False)[0]
    whole = left.subplots()
    style.show(whole, picture)
    for inset, ((top, at, _), color, line) in enumerate(zip(cuts, COLORS, LINES, strict=False)):
        # Edges that fall together stay visible, 2 pixels apart.
        _outline(whole, at + 2 * inset, top + 2 * inset, augmentation.CROP - 4 * inset, color, line)
    whole.set_title(f"crops of {augmentation.CROP} in {len(picture)} pixels", loc="center", fontsize=7)
    for axes, view, color, value, place in zip(
        right.subplots(2, 5).flat, cuts, 2 * COLORS, p, 2 * PLACES, strict=True
    ):
        style.show(axes, cut(picture, *view))
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=color, linewidth=1.5)
        mirrored = "mirrored" if view[2] else place
        axes.set_title(f"{mirrored}\n{value:.3f}", loc="center", fontsize=7)
    left.supxlabel(f"average of the ten: {p.mean():.3f}", fontsize=8)
    return made


def cut(picture_SS3: NDArray[np.uint8], top: int, left: int, flip: bool) -> NDArray[np.uint8]:
    """One view as the eye sees it."""
    part = picture_SS3[top : top + augmentation.CROP, left : left + augmentation.CROP]
    return part[:, ::-1] if flip else part


def _probability(
    subject: Subject, picture: NDArray[np.uint8], view: tuple[int, int, bool], index: int
) -> float:
    inputs = subject.trained.inputs(picture[None], view)
    return float(subject.trained.logits(inputs).softmax(1)[0, index])


def _outline(axes: Any, left: float, top: float, side: float, color: str, line: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, top), side, side, fill=False, color=color, linestyle=line, linewidth=1.2))


def color_range(subject: Subject) -> Figure:
    """One picture along each principal axis of the pixels' colours, two standard deviations of the draw."""
    picture, _ = subject.example()
    std = subject.trained.config.augment.color_std or 0.1  # the paper's, where the run had none
    axes_33 = augmentation.color_axes(subject.store.eigenvalues, subject.store.eigenvectors)
    amounts = np.array([-2, -1, 0, 1, 2])
    made = style.figure(4.9, f"PCA colour: shifts of one picture, in standard deviations of {std:g}")
    places = made.subplots(3, len(amounts))
    for component, row in enumerate(places):
        for axes, amount in zip(row, amounts, strict=True):
            shift = amount * std * axes_33[:, component]
            style.show(axes, np.clip(np.rint(picture + shift), 0, 255).astype(np.uint8))
            rgb = " ".join(f"{round(value):+d}" for value in shift)
            axes.set_title(f"{amount:+d}: {rgb}" if amount else "0", fontsize=7, loc="center")
        spread = np.sqrt(subject.store.eigenvalues[component])
        row[0].set_axis_on()
        row[0].set(xticks=[], yticks=[], ylabel=f"component {component + 1}\nstd. deviation {spread:.0f}")
        row[0].spines[:].set_visible(False)
    made.supxlabel("shift of red, green and blue above each picture, on the scale 0 to 255", fontsize=8)
    return made
