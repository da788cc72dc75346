"""Figures of a run, as PNG and SVG: drawn when it is complete, and by `python -m trainer.figures RUN`."""

from typing import Literal, get_args

Name = Literal[
    "learning-curves",
    "conv1-filters",
    "strongest",
    "activations",
    "predictions",
    "neighbours",
    "confusion",
    "ten-crops",
    "pca-colour",
]
NAMES: tuple[Name, ...] = get_args(Name)

Layer = Literal[
    "conv1",
    "norm1",
    "pool1",
    "conv2",
    "norm2",
    "pool2",
    "conv3",
    "conv4",
    "conv5",
    "pool5",
    "fc6",
    "fc7",
    "fc8",
]
"""Layers whose units `strongest` shows: conv1 to fc7 after the ReLU, fc8 before the softmax."""
