"""The operations that are worth a kernel of their own, as plain functions: the one door to this folder.

Each has several implementations, its backends. table.py lists them and chooses by processor, device, dtype
and shape; reference.py has one in plain torch for each. `use("reference")` takes those for everything. Each
raises ValueError for arrays that do not belong together: checks.py.

    conv1, conv2d, relu_lrn_pool, linear    the layers
    max_pool2d                              pooling alone, in torch everywhere
    crop                                    stored images -> network input
    sgd_, sum_rows_                         the update, and sums of gradients
    uniform                                 random numbers for dropout

B batch, C channels, O filters, H and W of an input, h and w of an output, k pixels along a filter; I inputs
and F outputs of a fully connected layer, or F units; S side of a stored image; N elements of flat arrays.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.kernels.checks import (
    check_convolution,
    check_crop,
    check_lrn,
    check_sum_rows,
    check_uniform,
    check_update,
)
from trainer.kernels.counter_rng import Purpose, generator
from trainer.kernels.crop_numba import CROP
from trainer.kernels.cuda import AVAILABLE as HAS_TRITON
from trainer.kernels.reference import max_pool2d
from trainer.kernels.table import chosen, run, use

__all__ = [
    "CROP",
    "HAS_TRITON",
    "Purpose",
    "chosen",
    "conv1",
    "conv2d",
    "crop",
    "generator",
    "linear",
    "max_pool2d",
    "relu_lrn_pool",
    "set_threads",
    "sgd_",
    "sum_rows_",
    "uniform",
    "use",
]


def set_threads(threads: int) -> None:
    """Compute with so many threads in this process, in torch and in Numba's loops."""
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def conv1(x_B3HW: Tensor, weight_O3kk: Tensor, bias_O: Tensor | None, pad: int) -> Tensor:
    """The first convolution: 4 pixels apart, with `pad` zeros beyond the right and the bottom edge.

    x: images of any floating-point dtype. Returns [B, O, h, w] of the weights' dtype. Of 224 x 224 pixels and
    filters of 11, 3 zeros make ceil((224 - 11) / 4) + 1 = 55 windows a row, which reach pixel 227: those of
    2012. To pad both sides by 2 would give 55 too, but other pixels to each window.
    """
    check_convolution(x_B3HW, weight_O3kk, bias_O, pad=pad)
    y: Tensor = run("conv1", x_B3HW, weight_O3kk, bias_O, pad)
    return y


def conv2d(
    x_BCHW: Tensor, weight_OCkk: Tensor, bias_O: Tensor | None, pad: int = 0, relu: bool = False
) -> Tensor:
    """A convolution, 1 pixel apart, with `pad` zeros on each side; with `relu` the ReLU of it.

    All tensors have one dtype. Returns [B, O, h, w], h = H + 2 pad - k + 1.
    """
    check_convolution(x_BCHW, weight_OCkk, bias_O, pad=2 * pad)
    y: Tensor = run("conv2d", x_BCHW, weight_OCkk, bias_O, pad, relu)
    return y


def relu_lrn_pool(
    x_BCHW: Tensor, relu: bool, window: int | None, n: int, k: float, alpha: float, beta: float
) -> Tensor:
    """Local response normalisation (paper, section 3.3) of x, or of its ReLU, then max-pooling (3.4).

        b_i = a_i / d_i^beta,   d_i = k + alpha * sum of a_j^2 over |j - i| <= n // 2

    The sum runs over neighbouring channels of the same tower at the same pixel and is cut off at the tower's
    edge. alpha multiplies the sum itself, as the paper writes it;
    torch.nn.functional.local_response_norm divides its alpha by n first.

    x: floating-point, best in channels_last; float32 and less are computed in float32. window: 3 or 2 pixels
    along the windows of pooling, which are 2 apart; None: no pooling. Returns x's dtype, [B, C, h, w],
    h = (H - window) // 2 + 1, or [B, C, H, W]. NaN stays NaN. Raises ValueError for an n that is not odd and
    positive, and for another window.
    """
    check_lrn(x_BCHW, window, n)
    y: Tensor = run("relu_lrn_pool", x_BCHW, relu, window, n, k, alpha, beta)
    return y


def linear(x_BI: Tensor, weight_FI: Tensor, bias_F: Tensor | None) -> Tensor:
    """A fully connected layer: [B, I] -> [B, F], all tensors of one dtype.

    Where the parameters have gradients already, backward adds to these.
    """
    y: Tensor = run("linear", x_BI, weight_FI, bias_F)
    return y


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
    size: int = CROP,
    out_BHW3: Tensor | None = None,
) -> Tensor:
    """Crop stored images to network input, (pixel - mean + shift) * scale: float32 [B, size, size, 3].

    images: uint8. means: float32, the mean image and the same flipped, on the images' device. top, left: the
    first pixel of the part that is cropped; sides: its height and width. If they are not `size`, the part is
    resized, each pixel interpolated between the four around its place. flip: reverse the crop's rows. shift:
    added to R, G, B, in units of 0..255. angle: degrees by which the image is rotated about the part's
    centre, counterclockwise, before the flip. centered: subtract the centre of the mean image, else the part
    cropped, resized, flipped and rotated like it. out: memory for the result, contiguous. Raises ValueError
    for arrays that do not belong together, for a crop beyond the image and for an angle that is not finite:
    the kernels check no index.
    """
    where = top_B, left_B, sides_B2, flip_B, shift_B3, angle_B
    check_crop(images_BSS3, means_2SS3, *where, size, out_BHW3)
    y: Tensor = run("crop", images_BSS3, means_2SS3, *where, scale, centered, size, out_BHW3)
    return y


def sgd_(
    w_N: Tensor,
    v_N: Tensor,
    g_N: Tensor,
    rounded_N: Tensor | None,
    momentum: float,
    lr_decay: float,
    lr: float,
) -> None:
    """The update (paper, section 5) in one pass: v = momentum v - lr_decay w - lr g; w = w + v; g = 0.

    w: weights, v: velocities, float32; g: gradients, of any dtype; rounded: a copy of the weights in the
    network's dtype, which is written too, or None. All are contiguous arrays of one length.
    """
    check_update(w_N, v_N, g_N, rounded_N)
    run("sgd_", w_N, v_N, g_N, rounded_N, momentum, lr_decay, lr)


def sum_rows_(total_N: Tensor, rows_RN: Tensor) -> None:
    """Add R arrays to `total`: sums are float32, in order, and rounded once to total's dtype."""
    check_sum_rows(total_N, rows_RN)
    run("sum_rows_", total_N, rows_RN)


def uniform(
    seed: int, purpose: Purpose, place: tuple[int, ...], positions_B: Tensor, units_F: Tensor
) -> Tensor:
    """Uniform numbers in [0, 1), float32 [B, F]: each a function of (seed, purpose, place, position, unit).

    positions: int64, samples' positions in the global batch; units: int64, units of the whole layer, on one
    device, which the result is on.
    """
    check_uniform(positions_B, units_F)
    y: Tensor = run("uniform", seed, purpose, place, positions_B, units_F)
    return y
