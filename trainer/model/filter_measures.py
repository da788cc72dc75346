"""Measures of filters that read the three colours: how much of each is colour, and whether it has formed.

F filters, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURED = 0.5
"""A filter of colour has at least this share of it."""
FORMED = 0.2
"""Mean correlation of neighbouring weights from which on filters have formed. Seen in trained networks: 0.04
and 0.1 for noise, 0.36 with the first edges and colours, 0.6 with the paper's filters."""


@dataclass(frozen=True)
class FilterMeasures:
    """A summary of the filters of one tower."""

    filters: int
    coloured: int
    """Filters of colour: those with a share of at least COLOURED."""
    colour: float
    """Mean share of colour, 0..1."""
    correlation: float
    """Mean correlation of neighbouring weights, -1..1."""


def measure(weights_F3HW: NDArray[np.float32]) -> FilterMeasures:
    """Measure the filters of one tower, float32 [F, 3, H, W]."""
    shares_F = colour_shares(weights_F3HW)
    return FilterMeasures(
        filters=len(shares_F),
        coloured=int((shares_F >= COLOURED).sum()),
        colour=float(shares_F.mean()),
        correlation=float(neighbour_correlations(weights_F3HW).mean()),
    )


def warning(measures: Mapping[str, FilterMeasures]) -> str | None:
    """A sentence on the towers whose filters have not formed, None if all have. measures: by tower."""
    names = [f"tower {name}" for name, m in measures.items() if m.correlation < FORMED]
    if not names:
        return None
    return f"The filters of {' and '.join(names)} have not formed: they are hardly more than noise."


def colour_shares(weights_F3HW: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of colour in each filter, float64 [F], 0..1; 0 for equal weights.

    The mean of the filter is taken off. Grey is the mean over red, green and blue at each pixel. Colour is
    the part of the sum of squares that grey leaves. Independent weights, of noise, have a share of 2/3.
    """
    w_F3HW = _centred(weights_F3HW, (1, 2, 3))
    colour_F3HW = w_F3HW - w_F3HW.mean(1, keepdims=True)
    return _divided((colour_F3HW**2).sum((1, 2, 3)), (w_F3HW**2).sum((1, 2, 3)))


def neighbour_correlations(weights_F3HW: NDArray[np.float32]) -> NDArray[np.float64]:
    """The correlation of neighbouring weights in each filter, float64 [F]; 0 for equal weights.

    The mean of each colour is taken off, so that a filter of one colour with noise does not count as smooth.
    Neighbours are next to each other in a row or a column of the same colour. The mean of their products is
    divided by the mean of the squares: about 0 for noise, near 1 for a smooth filter.
    """
    w_F3HW = _centred(weights_F3HW, (2, 3))
    across, down = w_F3HW[..., 1:] * w_F3HW[..., :-1], w_F3HW[:, :, 1:] * w_F3HW[:, :, :-1]
    pairs = max(across[0].size + down[0].size, 1)
    products_F = (across.sum((1, 2, 3)) + down.sum((1, 2, 3))) / pairs
    return _divided(products_F, (w_F3HW**2).mean((1, 2, 3)))


def _centred(weights_F3HW: NDArray[np.float32], over: tuple[int, ...]) -> NDArray[np.float64]:
    """The weights in float64, less their mean over these dimensions."""
    w_F3HW = weights_F3HW.astype(np.float64)
    centred: NDArray[np.float64] = w_F3HW - w_F3HW.mean(over, keepdims=True)
    return centred


def _divided(a_F: NDArray[np.float64], b_F: NDArray[np.float64]) -> NDArray[np.float64]:
    """a / b, and 0 where b is 0."""
    return np.divide(a_F, b_F, out=np.zeros_like(a_F), where=b_F > 0)
