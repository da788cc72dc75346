import numpy as np
from numpy.typing import NDArray

def weight_tiles(
    weights: NDArray[np.uint16], tiles: NDArray[np.uint16], filters: int, side: int, channels: int
) -> None: ...
def convolve(
    x: NDArray[np.uint16],
    tiles: NDArray[np.uint16],
    bias: NDArray[np.float32],
    y: NDArray[np.uint16],
    shape: tuple[int, ...],
    filters: int,
    side: int,
    pad: int,
    relu: bool,
    threads: int,
) -> None: ...
