"""One image next to its most probable classes, for `trainer.predict --annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.figures import predictions, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(
    network: PretrainedNetwork, image_SS3: NDArray[np.uint8], p_K: NDArray[np.float32], path: Path
) -> None:
    """Write the image, uint8 [S, S, 3], with bars of its probabilities. Needs matplotlib, else UserError."""
    style.require_matplotlib()

    def draw() -> Figure:
        figure = style.figure(2.6, style.short(path.stem.partition("-")[2], 80))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
        style.show(left, image_SS3)
        predictions.bars(right, p_K, None, network.name)
        right.set_xlabel("probability")
        return figure

    style.save(draw, [path])
