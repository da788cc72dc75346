"""conv1 as a convolution over blocks of pixels (space-to-depth), for units that want many channels.

conv1 reads 11 x 11 pixels of 3 channels, 4 apart: too few channels for a matrix unit, which multiplies 32 at
a time. Blocks of 4 x 4 pixels, 48 numbers each, make it a convolution of 3 x 3 blocks, 1 apart; the twelfth
row and column of its weights are zeros. The sums are the same, in another order.

B batch, H and W of the images, h and w of the blocks, K = 48 numbers of a block, O filters.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from preprocess.shared.cached_njit import cached_njit
from trainer.kernels.bfloat16 import as_array, from_float32, to_float32
from trainer.kernels.custom_op import custom_op

SIDE = 4  # pixels along a block, and from one of conv1's windows to the next
CHANNELS = 3
FILTER = 11  # pixels along conv1's filters, at most 3 x SIDE
WORDS = SIDE * CHANNELS * 2 // 8  # words of 8 bytes that 4 pixels in bfloat16 fill; they are copied whole


def fits(x_B3HW: Tensor, weight_O3kk: Tensor, bias_O: Tensor | None, pad: int) -> bool:
    """Whether blocks can be made: of images on the CPU whose gradient is not needed, for bfloat16.

    The zeros beyond the images are a block's last 3 rows and columns; the filters do not reach its fourth.
    """
    return (
        x_B3HW.device.type == "cpu"
        and pad == SIDE - 1
        and weight_O3kk.dtype == torch.bfloat16
        and weight_O3kk.shape[1:] == (CHANNELS, FILTER, FILTER)
        and not x_B3HW.requires_grad
        and x_B3HW.shape[2] % SIDE == x_B3HW.shape[3] % SIDE == 0
    )


def _empty(x_BCHW: Tensor) -> Tensor:
    B, _, H, W = x_BCHW.shape
    shape = (B, H // SIDE + 1, W // SIDE + 1, SIDE * SIDE * CHANNELS)
    return torch.empty(shape, dtype=torch.bfloat16).permute(0, 3, 1, 2)


@custom_op(_empty)
def of_images(x_BCHW: Tensor) -> Tensor:
    """Images [B, 3, H, W] -> bfloat16 blocks [B, 48, H / 4 + 1, W / 4 + 1].

    The last row and column of blocks are zeros. Raises ValueError where H or W is no multiple of 4.
    """
    B, C, H, W = x_BCHW.shape
    if C != CHANNELS or H % SIDE or W % SIDE:
        raise ValueError(f"images must be [B, 3, H, W], H and W multiples of 4, not {list(x_BCHW.shape)}")
    images = as_array(x_BCHW.permute(0, 2, 3, 1).contiguous()).reshape(B, H, W * CHANNELS)
    blocks_BKhw = _empty(x_BCHW)
    blocks_BKhw[:, :, H // SIDE].zero_()
    blocks_BKhw[:, :, :, W // SIDE].zero_()
    _write_blocks(images, as_array(blocks_BKhw.permute(0, 2, 3, 1)).view(np.uint64))
    return blocks_BKhw


def of_weights(weight_O3kk: Tensor) -> Tensor:
    """conv1's weights [O, 3, 11, 11] -> the weights of blocks [O, 48, 3, 3]; differentiable."""
    filters, channels, H, W = weight_O3kk.shape
    padded = F.pad(weight_O3kk, (0, -W % SIDE, 0, -H % SIDE))
    h, w = padded.shape[2] // SIDE, padded.shape[3] // SIDE
    split = padded.reshape(filters, channels, h, SIDE, w, SIDE)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(filters, -1, h, w)


@cached_njit(parallel=True, nogil=True)
def _write_blocks(images_BHN: Any, words_BhwM: Any) -> None:
    """Write the blocks of each image in bfloat16; N = 3 W numbers of a row, M words of a block. The last row
    and column of blocks are left as they are."""
    for b in numba.prange(len(images_BHN)):
        _write_blocks_of_one(images_BHN[b], words_BhwM[b])


@cached_njit(nogil=True)
def _write_blocks_of_one(image_HN: Any, words_hwM: Any) -> None:
    row = np.empty(image_HN.shape[1], np.uint16)
    words = row.view(np.uint64)
    for h in range(image_HN.shape[0]):
        x = image_HN[h]
        for i in range(x.size):
            row[i] = from_float32(to_float32(x[i]), row[i])
        blocks, at = words_hwM[h // SIDE], h % SIDE * WORDS
        for w in range(words.size // WORDS):
            for i in range(WORDS):
                blocks[w, at + i] = words[w * WORDS + i]
