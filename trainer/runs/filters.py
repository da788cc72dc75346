"""The filters of conv1 in a checkpoint's files, for those who look at a run while it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open


def conv1_filters(folder: Path) -> dict[str, NDArray[np.float32]]:
    """By tower, the filters in a checkpoint's folder, float32 [F, 3, H, W]; those that are not finite are 0.

    A tower is left out whose file is missing or damaged, or has no such filters: a run writes while others
    look.
    """
    found = {}
    for path in sorted(folder.glob("tower_?.safetensors")):
        try:
            with safe_open(path, "numpy") as file:
                weight_FCHW = np.nan_to_num(file.get_tensor("conv1.weight").astype(np.float32))
        except (OSError, SafetensorError, TypeError):  # no whole file of NumPy's types
            continue
        if weight_FCHW.ndim == 4 and weight_FCHW.shape[1] == 3 and weight_FCHW.size:
            found[path.stem.removeprefix("tower_")] = weight_FCHW
    return found
