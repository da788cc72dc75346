import numpy as np
from numpy.typing import NDArray

def weight_gradient(
    x: NDArray[np.uint16],
    dy: NDArray[np.uint16],
    sums: NDArray[np.float32],
    shape: tuple[int, ...],
    all_filters: int,
    some: tuple[int, int],
    side: int,
    pad: int,
) -> None: ...
