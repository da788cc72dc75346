"""How figures look, and how they are written: for a page 7 inches wide, in colours that all can tell apart.

matplotlib is imported where it is used: a run trains without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainer.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches, a page's text at usual margins
DPI = 200  # of the PNG: 1400 pixels wide

# Okabe and Ito (2008): told apart with every common kind of colour blindness.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE)
GREY = "#6E6E6E"

SETTINGS: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 10,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.hashsalt": "figure",  # the same figure is the same file
}


def figure(height: float, title: str) -> Figure:
    """An empty figure, `height` inches high; its parts find their places themselves."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    made = Figure(figsize=(WIDTH, height), layout="constrained")
    made.suptitle(title, x=0.01, ha="left", weight="bold")
    return made


def save(draw: Callable[[], Figure], paths: Sequence[Path]) -> None:
    """Draw, and write one file for each path, by its suffix."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, SETTINGS)):
        made = draw()
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            made.savefig(path, dpi=DPI, metadata=metadata)


def show(axes: Axes, image: Any, **how: Any) -> None:
    """A picture in its place, without ticks or frame."""
    axes.imshow(image, **how)
    axes.set_axis_off()


def short(name: str, width: int) -> str:
    """A class's name in at most `width` letters."""
    return name if len(name) <= width else name[: width - 1].rstrip() + "…"


def available() -> None:
    """Raise UserError, with the remedy, where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "Figures need matplotlib, which would put Pillow over Pillow-SIMD; install it without: "
            "pip install --no-deps matplotlib"
        ) from None
