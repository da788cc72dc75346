import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int, int]

def forward(
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    position: NDArray[np.uint8],
    shape: Shape,
    k: float,
    alpha: float,
    threads: int,
) -> None: ...
def backward(
    x: NDArray[np.uint16],
    dy: NDArray[np.uint16],
    position: NDArray[np.uint8],
    dx: NDArray[np.uint16],
    shape: Shape,
    k: float,
    alpha: float,
    threads: int,
) -> None: ...
