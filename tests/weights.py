"""Weights as another program would have them."""

import numpy as np


def narrow_alexnet(classes: int = 10) -> dict[str, np.ndarray]:
    """A narrow bvlc_alexnet: its shapes divided by eight, conv2, conv4 and conv5 in two groups."""
    draw = np.random.default_rng(5)
    shapes = {
        "conv1": (12, 3, 11, 11),
        "conv2": (16, 6, 5, 5),
        "conv3": (24, 16, 3, 3),
        "conv4": (24, 12, 3, 3),
        "conv5": (16, 12, 3, 3),
        "fc6": (64, 576),
        "fc7": (64, 64),
        "fc8": (classes, 64),
    }
    weights = {
        f"{n}.weight": draw.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5 for n, s in shapes.items()
    }
    return weights | {f"{n}.bias": draw.standard_normal(s[0]) for n, s in shapes.items()}
