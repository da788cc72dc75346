"""Local response normalisation (section 3.3 of the paper), the one kernel worth writing.

    b_i = a_i / d_i^beta,   d_i = k + alpha * sum of a_j^2 over |j - i| <= n // 2

The sum runs over neighbouring channels of the same tower at the same pixel and is cut off at the tower's
edge. alpha multiplies the sum itself, as the paper writes it; torch.nn.functional.local_response_norm
divides its alpha by n first.

Three forms of the same function:

* `local_response_norm` is what the network calls. On the CPU it runs compiled loops over channels_last
  rows, one pass forward and one backward; only the input is kept, the rest is computed again.
  On an NVIDIA GPU triton_kernels.py does the same. Where pooling follows on the CPU, lrn_pool.py does both
  with the same loops over a few pixels at a time, lrn_tiles.py.
* `sliced` is the formula in torch's own operations. It serves every other device.
* `spatial` is the 2012 program's second normalisation after conv2: the window is 5x5 pixels of one map.

Where a ReLU comes before it, as in the paper, both are one function: a loop that reads a number anyway can as
well replace it by zero, and a pass each way over the largest arrays of the network is saved.

N numbers of some pixels, C channels, B batch, H height, W width.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.kernels.bfloat16 import as_array, wide_vectors
from trainer.kernels.custom_op import like, opaque
from trainer.kernels.lrn_numba import Constants, gradient_tile, normalise_tile, tile_arrays, tile_size

PIXELS_A_TASK = 256  # of which one thread takes all


@numba.njit(error_model="numpy", cache=True, nogil=True)
def _forward_some(x_N: Any, y_N: Any, c: Constants) -> None:
    wide_vectors()
    arrays, size = tile_arrays(c), tile_size(c.C)
    for first in range(0, x_N.size, size):
        tile = slice(first, first + size)
        normalise_tile(x_N[tile], y_N[tile], arrays, c)


@numba.njit(error_model="numpy", cache=True, nogil=True)
def _backward_some(x_N: Any, dy_N: Any, dx_N: Any, c: Constants) -> None:
    wide_vectors()
    arrays, size = tile_arrays(c), tile_size(c.C)
    for first in range(0, x_N.size, size):
        tile = slice(first, first + size)
        gradient_tile(x_N[tile], dy_N[tile], dx_N[tile], arrays, c)


@numba.njit(parallel=True, cache=True, nogil=True)
def _forward(x_N: Any, y_N: Any, c: Constants) -> None:
    size = PIXELS_A_TASK * c.C
    for task in numba.prange((x_N.size + size - 1) // size):
        part = slice(task * size, (task + 1) * size)
        _forward_some(x_N[part], y_N[part], c)


@numba.njit(parallel=True, cache=True, nogil=True)
def _backward(x_N: Any, dy_N: Any, dx_N: Any, c: Constants) -> None:
    size = PIXELS_A_TASK * c.C
    for task in numba.prange((x_N.size + size - 1) // size):
        part = slice(task * size, (task + 1) * size)
        _backward_some(x_N[part], dy_N[part], dx_N[part], c)


def constants(x_BCHW: Tensor, relu: bool, n: int, k: float, alpha: float, beta: float) -> Constants:
    """For the compiled loops; they compute in float64 where the tensor is, else in float32.

    Raises ValueError for a window that the loops would read, and write, outside of their arrays for.
    """
    if n < 1 or n % 2 == 0 or x_BCHW.shape[1] < 1:
        raise ValueError(f"a window of {n} of {x_BCHW.shape[1]} channels: both must be positive, and it odd")
    typed = np.float64 if x_BCHW.dtype == torch.float64 else np.float32
    return Constants(x_BCHW.shape[1], relu, n, typed(k), typed(alpha), typed(beta))


def _numbers(x_BCHW: Tensor) -> NDArray[Any]:
    """The tensor's memory, the channels of one pixel behind each other."""
    return as_array(x_BCHW.permute(0, 2, 3, 1).view(-1))  # in any other format an error, not a copy


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether kernels for it can be compiled: an NVIDIA GPU, and Triton, which torch brings along."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def _triton() -> Any:
    return importlib.import_module("trainer.kernels.triton_kernels")


@opaque(like)
def _normalise(x: Tensor, relu: bool, n: int, k: float, alpha: float, beta: float) -> Tensor:
    if x.is_cuda:
        said: Tensor = _triton().lrn_forward(x, relu, n, k, alpha, beta)
        return said
    y = torch.empty_like(x)
    _forward(_numbers(x), _numbers(y), constants(x, relu, n, k, alpha, beta))
    return y


@opaque(like)
def _gradient(x: Tensor, dy: Tensor, relu: bool, n: int, k: float, alpha: float, beta: float) -> Tensor:
    if x.is_cuda:
        said: Tensor = _triton().lrn_backward(x, dy, relu, n, k, alpha, beta)
        return said
    dx = torch.empty_like(x)
    _backward(_numbers(x), _numbers(dy), _numbers(dx), constants(x, relu, n, k, alpha, beta))
    return dx


class _CompiledLRN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, relu: bool, n: int, k: float, alpha: float, beta: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)
        ctx.constants = (relu, n, k, alpha, beta)
        return _normalise(x, relu, n, k, alpha, beta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        dy = grads[0].contiguous(memory_format=torch.channels_last)
        return _gradient(x, dy, *ctx.constants), None, None, None, None, None


def sliced(x_BCHW: Tensor, n: int, k: float, alpha: float, beta: float, relu: bool = False) -> Tensor:
    """The formula in torch's operations, arithmetic in float32 or wider; any device, any float dtype."""
    a = (F.relu(x_BCHW) if relu else x_BCHW).to(torch.promote_types(x_BCHW.dtype, torch.float32))
    half = n // 2
    padded = F.pad(a * a, (0, 0, 0, 0, half, half))
    C = a.shape[1]
    total = sum((padded[:, j : j + C] for j in range(n)), start=torch.zeros_like(a))
    return (a * (k + alpha * total) ** -beta).to(x_BCHW.dtype)


def spatial(x_BCHW: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """Normalise over an n x n window of the same map, zeros beyond its border; alpha multiplies the sum."""
    a = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
    total = F.avg_pool2d(a * a, n, stride=1, padding=n // 2, divisor_override=1)
    return (a * (k + alpha * total) ** -beta).to(x_BCHW.dtype)


def local_response_norm(
    x_BCHW: Tensor, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, relu: bool = False
) -> Tensor:
    """Normalise each activation, or its ReLU, by its n neighbours in channel order (paper, section 3.3).

    x_BCHW: float32, float64 or bfloat16, best in channels_last. n is odd. Returns the same shape and dtype;
    bfloat16 is computed in float32.
    """
    # torch.compile cannot follow the question; where it works on a GPU there is Triton.
    kernels = torch.compiler.is_compiling() or has_triton(x_BCHW.device)
    if x_BCHW.device.type == "cpu" or (kernels and x_BCHW.dtype != torch.float64):
        return _CompiledLRN.apply(x_BCHW, relu, n, k, alpha, beta)
    return sliced(x_BCHW, n, k, alpha, beta, relu)
