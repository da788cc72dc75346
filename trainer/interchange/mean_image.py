"""The mean image of another program's network: Caffe's .binaryproto, an .npy, or a number for each channel.

S side of the images. Channels are in the order in which conv1 reads them: blue, green, red in Caffe's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.errors import UserError
from trainer.interchange import caffemodel, foreign, wire


def read(words: Sequence[str], side: int, bgr: bool) -> NDArray[np.float32]:
    """The mean image float32 [S, S, 3], red, green, blue, 0..255.

    words: a file's name, or a number for each channel or for all. side: S, pixels along the images. bgr:
    whether the channels are blue, green, red. Raises UserError for anything else.
    """
    mean_CHW = _numbers(words) if _are_numbers(words) else _file(words, side)
    if not np.isfinite(mean_CHW).all() or np.abs(mean_CHW).max() > 255:
        raise UserError(f"--mean {' '.join(words)} has values that are no pixels, 0 to 255.")
    mean_CHW = mean_CHW[::-1] if bgr else mean_CHW
    return np.ascontiguousarray(np.broadcast_to(mean_CHW.transpose(1, 2, 0), (side, side, 3)), np.float32)


def _are_numbers(words: Sequence[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


def _numbers(words: Sequence[str]) -> NDArray[np.float64]:
    """[3, 1, 1]."""
    if len(words) not in (1, 3):
        raise UserError(f"--mean takes a number for each of 3 channels, not {len(words)}.")
    return np.broadcast_to(np.array(list(map(float, words))), 3).reshape(3, 1, 1)


def _file(words: Sequence[str], side: int) -> NDArray[np.floating]:
    """[3, S, S], or [3, 1, 1] where the file has one number a channel."""
    path, *more = map(Path, words)
    if more:
        raise UserError(f"--mean takes one file or numbers, not {' '.join(words)}.")
    if not path.is_file():
        raise UserError(f"There is no file {path}: --mean takes a .binaryproto, an .npy, or three numbers.")
    try:
        if foreign.kind_of(path) == "npy":
            found = np.load(path, allow_pickle=False)
        else:
            message = wire.open_file(path)
            if not caffemodel.is_blob(message):
                raise wire.WireError("it has no array")
            found = caffemodel.array(message)
    except foreign.DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is no .binaryproto of Caffe and no plain .npy: {reason:.300}") from None
    shape = found.shape[1:] if found.ndim == 4 and found.shape[0] == 1 else found.shape
    if shape not in ((3,), (3, 1, 1), (3, side, side)) or found.dtype.kind not in "fui":
        raise UserError(
            f"{path} has the shape {list(found.shape)}, and a mean image must be [3, {side}, {side}], as its "
            "images are (Caffe refuses others too): give the mean of each channel instead, --mean B G R."
        )
    return found.reshape(shape if len(shape) == 3 else (3, 1, 1))
