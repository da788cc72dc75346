"""The reference of each operation, in plain torch, for any device and any floating-point dtype.

Every backend of table.py is tested against these, and `kernels.use("reference")` takes them for everything.

B batch, C channels, O filters, H and W of an input, h and w of an output, k pixels along a filter; I inputs
and F outputs of a fully connected layer; S side of a stored image; N elements of flat arrays, R arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.kernels.counter_rng import Purpose, hash_32, hashed_coordinates

CONV1_STRIDE = 4

POOL_STRIDE = 2


def conv1(x_B3HW: Tensor, weight_O3kk: Tensor, bias_O: Tensor | None, pad: int) -> Tensor:
    """See `kernels.conv1`. The zeros are added and the images are cast in one pass."""
    B, C, H, W = x_B3HW.shape
    shape, dtype = (B, C, H + pad, W + pad), weight_O3kk.dtype
    padded = torch.empty(shape, dtype=dtype, device=x_B3HW.device, memory_format=torch.channels_last)
    padded[:, :, H:].zero_()
    padded[:, :, :H, W:].zero_()
    padded[:, :, :H, :W].copy_(x_B3HW)
    return F.conv2d(padded, weight_O3kk, bias_O, stride=CONV1_STRIDE)


def conv2d(x_BCHW: Tensor, weight_OCkk: Tensor, bias_O: Tensor | None, pad: int, relu: bool) -> Tensor:
    """See `kernels.conv2d`."""
    y = F.conv2d(x_BCHW, weight_OCkk, bias_O, padding=pad)
    return F.relu(y) if relu else y


def relu_lrn_pool(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> Tensor:
    """See `kernels.relu_lrn_pool`. The arithmetic of LRN is in float32 or wider."""
    a = (F.relu(x_BCHW) if relu else x_BCHW).to(torch.promote_types(x_BCHW.dtype, torch.float32))
    C, half = a.shape[1], n // 2
    padded = F.pad(a * a, (0, 0, 0, 0, half, half))
    total = sum((padded[:, j : j + C] for j in range(n)), start=torch.zeros_like(a))
    y = (a * (k + alpha * total) ** -beta).to(x_BCHW.dtype)
    return y if window is None else max_pool2d(y, window)


def max_pool2d(x_BCHW: Tensor, window: int, ceil: bool = False) -> Tensor:
    """Max-pooling (paper, section 3.4), windows 2 apart; ceil: windows may reach beyond the edge.

    The gradient of torch's own is summed by atomic additions on a GPU. Where algorithms must be deterministic
    it is summed in the order of a window's pixels instead.
    """
    if x_BCHW.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        y: Tensor = _DeterministicMaxPool.apply(x_BCHW, window, ceil)
        return y
    return F.max_pool2d(x_BCHW, window, POOL_STRIDE, ceil_mode=ceil)


class _DeterministicMaxPool(torch.autograd.Function):
    """Max-pooling whose gradient has one order of sums."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, window: int, ceil: bool) -> Tensor:
        y, index = F.max_pool2d(x_BCHW, window, POOL_STRIDE, ceil_mode=ceil, return_indices=True)
        ctx.save_for_backward(index)
        ctx.shape, ctx.window = x_BCHW.shape, window
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (index_BChw,), (dy_BChw,), (H, W), s = ctx.saved_tensors, grads, ctx.shape[2:], POOL_STRIDE
        h, w = dy_BChw.shape[2:]
        # With room for windows that reach beyond the edge.
        dx = dy_BChw.new_zeros(*ctx.shape[:2], s * h + ctx.window, s * w + ctx.window)
        row_h1 = s * torch.arange(h, device=dy_BChw.device)[:, None]
        column_w = s * torch.arange(w, device=dy_BChw.device)
        for i in range(ctx.window):
            for j in range(ctx.window):
                here = index_BChw == (row_h1 + i) * W + column_w + j
                dx[:, :, i : i + s * h : s, j : j + s * w : s] += dy_BChw * here
        return dx[:, :, :H, :W].contiguous(memory_format=torch.channels_last), None, None


def linear(x_BI: Tensor, weight_FI: Tensor, bias_F: Tensor | None) -> Tensor:
    """See `kernels.linear`."""
    return F.linear(x_BI, weight_FI, bias_F)


def crop(
    images_BSS3: Tensor,
    means_2SS3: Tensor,
    top_B: NDArray[np.int64],
    left_B: NDArray[np.int64],
    sides_B2: NDArray[np.int64],
    flip_B: NDArray[np.bool_],
    shift_B3: NDArray[np.float32],
    angle_B: NDArray[np.float32],
    scale: float,
    centered: bool,
    size: int,
    out_BHW3: Tensor | None,
) -> Tensor:
    """See `kernels.crop`. If any image is resized or rotated, all are interpolated."""
    device, mean_SS3 = images_BSS3.device, means_2SS3[0]
    side = len(mean_SS3)
    top, left, sides, flip, shift, angle = (
        torch.from_numpy(array).to(device, non_blocking=True)
        for array in (top_B, left_B, sides_B2, flip_B, shift_B3, angle_B)
    )
    image = torch.arange(len(top), device=device)[:, None, None]
    row_H = column_W = torch.arange(size, device=device)
    column_BW = torch.where(flip[:, None], size - 1 - column_W, column_W)

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        """Pixels at rows and columns [B, H or 1, W or 1], less their mean unless that is the centre's."""
        found = images_BSS3[image, row, column]
        return found.float() if centered else found - mean_SS3[row, column]

    if not angle_B.any() and (sides_B2 == size).all():
        x = pixels((top[:, None] + row_H)[:, :, None], (left[:, None] + column_BW)[:, None, :])
    else:
        last = side - 1
        high_B11, wide_B11 = sides.double().T[:, :, None, None]
        across = ((column_BW.double() + 0.5) / size - 0.5)[:, None, :] * wide_B11
        down = ((row_H.double() + 0.5) / size - 0.5)[None, :, None] * high_B11
        radians = angle.deg2rad()[:, None, None]
        cos, sin = radians.cos().double(), radians.sin().double()
        u = (left[:, None, None] + wide_B11 / 2 + cos * across - sin * down - 0.5).clamp(0, last)
        v = (top[:, None, None] + high_B11 / 2 + sin * across + cos * down - 0.5).clamp(0, last)
        u0, v0 = u.long(), v.long()
        u1, v1 = (u0 + 1).clamp(max=last), (v0 + 1).clamp(max=last)
        x = torch.zeros(*u.shape, 3, device=device)
        for row, row_weight in ((v0, v0 + 1 - v), (v1, v - v0)):
            for column, column_weight in ((u0, u0 + 1 - u), (u1, u - u0)):
                x += (row_weight * column_weight).float()[..., None] * pixels(row, column)
    if centered:
        middle = slice((side - size) // 2, (side - size) // 2 + size)
        x -= mean_SS3[middle, middle]
    x.add_(shift[:, None, None]).mul_(scale)
    return x if out_BHW3 is None else out_BHW3.copy_(x)


def sgd_(
    w_N: Tensor,
    v_N: Tensor,
    g_N: Tensor,
    rounded_N: Tensor | None,
    momentum: float,
    lr_decay: float,
    lr: float,
) -> None:
    """See `kernels.sgd_`."""
    v_N.mul_(momentum).sub_(w_N, alpha=lr_decay).sub_(g_N, alpha=lr)
    w_N.add_(v_N)
    g_N.zero_()
    if rounded_N is not None:
        rounded_N.copy_(w_N)


def sum_rows_(total_N: Tensor, rows_RN: Tensor) -> None:
    """See `kernels.sum_rows_`."""
    dtype = torch.promote_types(total_N.dtype, torch.float32)
    total_N.copy_(rows_RN.sum(0, dtype=dtype) + total_N)


def uniform(
    seed: int, purpose: Purpose, place: tuple[int, ...], positions_B: Tensor, units_F: Tensor
) -> Tensor:
    """See `kernels.uniform`."""
    position_B, unit_F = hashed_coordinates(seed, purpose, place, positions_B, units_F)
    bits_BF = hash_32(unit_F[None, :] ^ position_B[:, None])
    return (bits_BF >> 8).to(torch.float32) * 2.0**-24
