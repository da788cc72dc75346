import numpy as np
from numpy.typing import NDArray

def images(
    descriptors: NDArray[np.int64], offsets: NDArray[np.int64], out: NDArray[np.uint8]
) -> tuple[int, int] | None: ...
