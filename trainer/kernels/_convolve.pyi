import numpy as np
from numpy.typing import NDArray

def convolve(
    x: NDArray[np.uint16],
    weights: NDArray[np.uint16],
    bias: NDArray[np.float32],
    y: NDArray[np.uint16],
    shape: tuple[int, ...],
    filters: int,
    side: int,
    pad: int,
    relu: bool,
    threads: int,
) -> None: ...
