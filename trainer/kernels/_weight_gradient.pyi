import numpy as np
from numpy.typing import NDArray

def weight_gradient(
    x: NDArray[np.uint16],
    dy: NDArray[np.uint16],
    sums: NDArray[np.float32],
    shape: tuple[int, ...],
    filters: int,
    side: int,
    pad: int,
    parts: tuple[int, int],
) -> None: ...
