"""One picture beside the classes that the network finds most probable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.pretrained import Trained
from trainer.figures import predictions, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(trained: Trained, picture_SS3: NDArray[np.uint8], p_K: NDArray[np.float32], path: Path) -> None:
    """Write the picture, uint8 [S, S, 3], with its bars to `path`; UserError without matplotlib."""
    style.available()

    def draw() -> Figure:
        made = style.figure(2.6, style.short(path.stem.partition("-")[2], 80))
        left, right = made.subplots(1, 2, width_ratios=(1, 1.6))
        style.show(left, picture_SS3)
        predictions.bars(right, p_K, None, trained.name)
        right.set_xlabel("probability")
        return made

    style.save(draw, [path])
