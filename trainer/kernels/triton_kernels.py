"""LRN and the update as Triton kernels, for NVIDIA GPUs. cuda.py makes backends of them.

TRITON_INTERPRET=1 runs them on a CPU, slowly, as a check. `python -m tests.benchmarks gpu` compares them with
torch's operations before it measures.
"""

# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers of one program


@triton.jit
def _inverse_power(d, beta: tl.constexpr):
    """d ** -beta; 0.75, the paper's power, from the reciprocal root, for which GPUs have an instruction."""
    if beta == 0.75:
        q = tl.rsqrt(d)
        return q * tl.sqrt(q)
    return tl.exp(-beta * tl.log(d))


@triton.jit
def _inverse_power_and_one(d, beta: tl.constexpr):
    """d ** (-beta - 1)."""
    if beta == 0.75:
        q = tl.rsqrt(d)
        return q * tl.sqrt(q) * (q * q)
    return tl.exp((-beta - 1) * tl.log(d))


@triton.jit
def _load(x, place, channel, shift, size, C: tl.constexpr):
    """x at `shift` channels from here; 0 beyond the first and the last channel of the pixel."""
    inside = (channel + shift >= 0) & (channel + shift < C) & (place < size)
    return tl.load(x + place + shift, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _activation(x, place, channel, shift, size, C: tl.constexpr, relu: tl.constexpr):
    """`_load`, or its ReLU; NaN stays NaN."""
    a = _load(x, place, channel, shift, size, C)
    if relu:
        a = tl.where(a < 0, 0.0, a)
    return a


@triton.jit
def _denominator(
    x, place, channel, shift, size, C: tl.constexpr, relu: tl.constexpr, half: tl.constexpr, k, alpha
):
    """k + alpha * the sum of squares of the channels around `channel + shift`."""
    total = tl.zeros_like(_load(x, place, channel, 0, size, C))
    for j in tl.static_range(-half, half + 1):
        a = _activation(x, place, channel, shift + j, size, C, relu)
        total += a * a
    return k + alpha * total


@triton.jit
def _lrn_forward(
    x,
    y,
    size,
    C: tl.constexpr,
    relu: tl.constexpr,
    half: tl.constexpr,
    k,
    alpha,
    beta: tl.constexpr,
    block: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    channel = (place % C).to(tl.int32)
    d = _denominator(x, place, channel, 0, size, C, relu, half, k, alpha)
    a = _activation(x, place, channel, 0, size, C, relu)
    tl.store(y + place, a * _inverse_power(d, beta), mask=place < size)


@triton.jit
def _lrn_backward(
    x,
    dy,
    dx,
    size,
    C: tl.constexpr,
    relu: tl.constexpr,
    half: tl.constexpr,
    k,
    alpha,
    beta: tl.constexpr,
    block: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    channel = (place % C).to(tl.int32)
    total = tl.zeros_like(_load(x, place, channel, 0, size, C))
    for j in tl.static_range(-half, half + 1):
        d = _denominator(x, place, channel, j, size, C, relu, half, k, alpha)
        shared = _load(dy, place, channel, j, size, C) * _activation(x, place, channel, j, size, C, relu)
        total += shared * _inverse_power_and_one(d, beta)
    own = _inverse_power(_denominator(x, place, channel, 0, size, C, relu, half, k, alpha), beta)
    a, g = _activation(x, place, channel, 0, size, C, relu), _load(dy, place, channel, 0, size, C)
    gradient = g * own - 2 * alpha * beta * a * total
    if relu:
        gradient = tl.where(a <= 0, 0.0, gradient)
    tl.store(dx + place, gradient, mask=place < size)


def lrn_forward(x_BCHW: Tensor, relu: bool, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """Normalise x, or its ReLU: channels_last -> the same shape, dtype and format."""
    y = torch.empty_like(x_BCHW)
    size, C = x_BCHW.numel(), x_BCHW.shape[1]
    _lrn_forward[(triton.cdiv(size, BLOCK),)](x_BCHW, y, size, C, relu, n // 2, k, alpha, beta, BLOCK)
    return y


def lrn_backward(
    x_BCHW: Tensor, dy_BCHW: Tensor, relu: bool, n: int, k: float, alpha: float, beta: float
) -> Tensor:
    """Compute the input's gradient; all tensors are in channels_last."""
    dx = torch.empty_like(x_BCHW)
    size, C = x_BCHW.numel(), x_BCHW.shape[1]
    grid = (triton.cdiv(size, BLOCK),)
    _lrn_backward[grid](x_BCHW, dy_BCHW, dx, size, C, relu, n // 2, k, alpha, beta, BLOCK)
    return dx


@triton.jit
def _sgd(w, v, g, rounded, size, momentum, lr_decay, lr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    weight, velocity = tl.load(w + place, mask=inside), tl.load(v + place, mask=inside)
    gradient = tl.load(g + place, mask=inside).to(tl.float32)
    velocity = momentum * velocity - lr_decay * weight - lr * gradient
    weight += velocity
    tl.store(v + place, velocity, mask=inside)
    tl.store(w + place, weight, mask=inside)
    tl.store(rounded + place, weight, mask=inside)
    tl.store(g + place, tl.zeros_like(gradient), mask=inside)


def sgd_(
    w_N: Tensor, v_N: Tensor, g_N: Tensor, rounded_N: Tensor, momentum: float, lr_decay: float, lr: float
) -> None:
    """Update flat arrays in one pass; leaves the gradients at zero. `rounded_N` may be `w_N` itself."""
    size = w_N.numel()
    _sgd[(triton.cdiv(size, BLOCK),)](w_N, v_N, g_N, rounded_N, size, momentum, lr_decay, lr, BLOCK)
