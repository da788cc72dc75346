"""Fonts, colours and file formats of figures, for a page 7 inches wide and for readers with colour blindness.

matplotlib is imported inside functions: a run trains without it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from preprocess.shared.files import write_atomically
from preprocess.shared.names import shown
from trainer.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches, a page's text at usual margins
FORMATS = (".png", ".svg", ".pdf")
DPI = 200  # of the PNG: 1400 pixels wide

# Okabe and Ito (2008): distinguishable with every common kind of colour blindness.
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
    "svg.hashsalt": "figure",  # identifiers in SVG files are the same each time
}


def figure(height: float, title: str) -> Figure:
    """An empty figure, `height` inches high, with matplotlib's constrained layout."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    empty = Figure(figsize=(WIDTH, height), layout="constrained")
    empty.suptitle(title, x=0.01, ha="left", weight="bold")
    return empty


def note(figure: Figure, text: str) -> None:
    """Write lines below a figure, from its left edge."""
    figure.supxlabel(text, x=0.01, ha="left", ma="left", fontsize=7, color=GREY)


def save(draw: Callable[[], Figure], paths: Sequence[Path]) -> None:
    """Draw a figure with these settings and write it to each path, in the format of its suffix."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, SETTINGS)):
        drawn = draw()
        for path in paths:
            write(drawn, path)
            drawn.set_layout_engine("none")  # the first file's places hold for all


def write(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write a figure in the format of the path's suffix, atomically."""
    buffer, kind = io.BytesIO(), path.suffix[1:].lower()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else {})
    write_atomically(path, buffer.getvalue())


def show(axes: Axes, image: Any, **options: Any) -> None:
    """Draw an image without ticks or frame."""
    axes.imshow(image, **options)
    axes.set_axis_off()


def short(name: str, width: int) -> str:
    """A name in at most `width` letters, for matplotlib, which would take what is between $ as a formula."""
    name = shown(name)
    name = name if len(name) <= width else name[: width - 1].rstrip() + "…"
    return name.replace("$", r"\$")


def require_matplotlib() -> None:
    """Raise UserError, with the remedy, when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "Figures need matplotlib, which would put Pillow over Pillow-SIMD; install it without: "
            "pip install --no-deps matplotlib"
        ) from None
