"""conv1: its zeros, and its form as a convolution of blocks, for matrix units that want many channels.

conv1 reads 11 x 11 pixels of 3 channels, 4 apart: too few channels for a unit that multiplies 32 at a time.
Blocks of 4 x 4 pixels, 48 numbers each, make the same layer a convolution of 3 x 3 blocks, 1 apart, whose
twelfth row and column of weights are zeros. The sums are the same, in another order.

B batch, H and W of the images, h and w of the blocks, O filters.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.kernels.bfloat16 import as_array, narrowed, widened
from trainer.kernels.conv import convolution
from trainer.kernels.custom_op import opaque

# conv1 reads zeros beyond the right and the bottom edge: ceil((224 - 11) / 4) + 1 = 55 windows of 11 pixels,
# 4 apart, reach pixel 227. Padding both sides by 2 gives 55 too, but other pixels to each window.
PAD = 3

SIDE = 4  # pixels of a block; conv1's windows lie as far apart
CHANNELS = 3
WORDS = SIDE * CHANNELS * 2 // 8  # that 4 pixels of bfloat16 fill: what lies together before and after


@numba.njit(cache=True, nogil=True)
def _cut_one(x_HN: Any, words_hwK: Any) -> None:
    line = np.empty(x_HN.shape[1], np.uint16)
    words = line.view(np.uint64)
    for h in range(x_HN.shape[0]):
        x = x_HN[h]
        for i in range(x.size):
            line[i] = narrowed(widened(x[i]), line[i])
        blocks, at = words_hwK[h // SIDE], h % SIDE * WORDS
        for w in range(words.size // WORDS):
            for i in range(WORDS):
                blocks[w, at + i] = words[w * WORDS + i]


@numba.njit(parallel=True, cache=True, nogil=True)
def _cut(x_BHN: Any, words_BhwK: Any) -> None:
    """Write the blocks that have pixels, in bfloat16; those beyond the edges are left as they are."""
    for b in numba.prange(len(x_BHN)):
        _cut_one(x_BHN[b], words_BhwK[b])


def _empty(x_BCHW: Tensor) -> Tensor:
    B, _, H, W = x_BCHW.shape
    shape = (B, H // SIDE + 1, W // SIDE + 1, SIDE * SIDE * CHANNELS)
    return torch.empty(shape, dtype=torch.bfloat16).permute(0, 3, 1, 2)


@opaque(_empty)
def of_images(x_BCHW: Tensor) -> Tensor:
    """Images [B, 3, H, W], both sides multiples of 4 -> bfloat16 [B, 48, H / 4 + 1, W / 4 + 1], the last
    blocks of each line and the last line zeros."""
    B, C, H, W = x_BCHW.shape
    if C != CHANNELS or H % SIDE or W % SIDE:
        raise ValueError(f"images [B, 3, H, W], H and W multiples of 4, are cut, not {list(x_BCHW.shape)}")
    lines = as_array(x_BCHW.permute(0, 2, 3, 1).contiguous()).reshape(B, H, W * CHANNELS)
    blocks_BKhw = _empty(x_BCHW)
    blocks_BKhw[:, :, H // SIDE].zero_()
    blocks_BKhw[:, :, :, W // SIDE].zero_()
    _cut(lines, as_array(blocks_BKhw.permute(0, 2, 3, 1)).view(np.uint64))
    return blocks_BKhw


def of_weights(weight_O3HW: Tensor) -> Tensor:
    """conv1's weights [O, 3, 11, 11] as those of blocks, [O, 48, 3, 3]; differentiable."""
    filters, channels, H, W = weight_O3HW.shape
    padded = F.pad(weight_O3HW, (0, -W % SIDE, 0, -H % SIDE))
    h, w = padded.shape[2] // SIDE, padded.shape[3] // SIDE
    split = padded.reshape(filters, channels, h, SIDE, w, SIDE)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(filters, -1, h, w)


def conv1(layer: nn.Conv2d, x_B3HW: Tensor) -> Tensor:
    """The images, of any dtype, through the first layer: [B, O, 55, 55] of the weights' dtype."""
    dtype = layer.weight.dtype
    if dtype == torch.bfloat16 and x_B3HW.device.type == "cpu" and not x_B3HW.requires_grad:
        return convolution(of_images(x_B3HW), of_weights(layer.weight), layer.bias)
    said: Tensor = layer(_padded(x_B3HW, dtype))
    return said


def _padded(x_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """The images in conv1's dtype with zeros beyond two edges, in one pass over them."""
    B, C, H, W = x_BCHW.shape
    shape = (B, C, H + PAD, W + PAD)
    padded = torch.empty(shape, dtype=dtype, device=x_BCHW.device, memory_format=torch.channels_last)
    padded[:, :, H:].zero_()
    padded[:, :, :H, W:].zero_()
    padded[:, :, :H, :W].copy_(x_BCHW)
    return padded
