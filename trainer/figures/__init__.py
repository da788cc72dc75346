"""Figures of a run, as PNG and SVG: drawn when it is complete, and by `python -m trainer.figures RUN`."""

from typing import Literal, get_args

Name = Literal[
    "learning-curves",
    "conv1-filters",
    "predictions",
    "neighbours",
    "confusion",
    "ten-crops",
    "pca-colour",
]
NAMES: tuple[Name, ...] = get_args(Name)
