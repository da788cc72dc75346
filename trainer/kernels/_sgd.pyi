from typing import Any

import numpy as np
from numpy.typing import NDArray

def sgd(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    g: NDArray[Any],
    rounded: NDArray[np.uint16],
    momentum: float,
    lr_decay: float,
    lr: float,
    threads: int,
) -> None: ...
