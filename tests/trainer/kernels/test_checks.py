"""Every entry of the kernels refuses arrays that do not belong together: its loops check no index."""

import numpy as np
import pytest
import torch

from trainer import kernels
from trainer.kernels import amx, avx512, lrn_pool_numba

BF16, F16, INT = torch.bfloat16, torch.float16, torch.int64


def zeros(*shape, dtype=torch.float32):
    x = torch.zeros(shape, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def lrn(x, window=3, n=5):
    return kernels.relu_lrn_pool(x, True, window, n, 2.0, 1e-4, 0.75)


def update(w=64, v=64, g=64, rounded=64, *, dtypes=(torch.float32,) * 3, low=BF16):
    arrays = [zeros(n, dtype=dtype) for n, dtype in zip((w, v, g), dtypes, strict=True)]
    kernels.sgd_(*arrays, rounded and zeros(rounded, dtype=low), 0.9, 0.1, 0.1)


def uniform(positions, units):
    return kernels.uniform(0, kernels.Purpose.DROPOUT, (1,), positions, units)


def crop(**changes):
    views = {
        "top": np.zeros(2, np.int64),
        "left": np.zeros(2, np.int64),
        "sides": np.full((2, 2), 224),
        "flip": np.zeros(2, bool),
        "shift": np.zeros((2, 3), np.float32),
        "angle": np.zeros(2, np.float32),
    }
    images, means = zeros(2, 230, 230, 3, dtype=torch.uint8).contiguous(), zeros(2, 230, 230, 3).contiguous()
    return kernels.crop(images, means, *(views | changes).values(), 1.0, False)


def conv1(x, bias=16, dtype=BF16):
    return kernels.conv1(x, zeros(16, 3, 11, 11, dtype=dtype), zeros(bias, dtype=dtype), 3)


def conv2d(x, weight=(16, 16, 3, 3), bias=16, pad=1, dtype=BF16):
    return kernels.conv2d(x, zeros(*weight, dtype=dtype), zeros(bias, dtype=dtype), pad)


WRONG = {
    "velocities too short": lambda: update(v=10),
    "gradients too short": lambda: update(g=10),
    "gradients too long": lambda: update(g=65),
    "rounded copy too short": lambda: update(rounded=63),
    "velocities of another dtype": lambda: update(dtypes=(torch.float32, torch.float64, torch.float32)),
    "weights that are integers": lambda: update(dtypes=(INT, INT, torch.float32)),
    "gradients that are integers": lambda: update(dtypes=(torch.float32, torch.float32, INT)),
    "rounded copy of integers": lambda: update(low=torch.int32),
    "weights in two dimensions": lambda: kernels.sgd_(*[zeros(4, 4)] * 3, None, 0.9, 0.1, 0.1),
    "weights with gaps": lambda: kernels.sgd_(*[zeros(64)[::2]] * 3, None, 0.9, 0.1, 0.1),
    "rows too short": lambda: kernels.sum_rows_(zeros(100, dtype=BF16), zeros(3, 10, dtype=BF16)),
    "rows too long": lambda: kernels.sum_rows_(zeros(10, dtype=BF16), zeros(3, 100, dtype=BF16)),
    "one row": lambda: kernels.sum_rows_(zeros(100, dtype=BF16), zeros(100, dtype=BF16)),
    "rows of another dtype": lambda: kernels.sum_rows_(zeros(100), zeros(3, 100, dtype=BF16)),
    "rows of integers": lambda: kernels.sum_rows_(zeros(9, dtype=INT), zeros(3, 9, dtype=INT)),
    "positions in two dimensions": lambda: uniform(zeros(2, 3, dtype=INT), zeros(5, dtype=INT)),
    "one position without an axis": lambda: uniform(zeros(dtype=INT), zeros(5, dtype=INT)),
    "units in two dimensions": lambda: uniform(zeros(2, dtype=INT), zeros(5, 5, dtype=INT)),
    "units that are no integers": lambda: uniform(zeros(2, dtype=INT), zeros(5)),
    "LRN of three dimensions": lambda: lrn(zeros(16, 8, 8)),
    "LRN of integers": lambda: lrn(zeros(1, 16, 8, 8, dtype=INT)),
    "an even window of channels": lambda: lrn(zeros(1, 16, 8, 8), n=4),
    "a negative window of channels": lambda: lrn(zeros(1, 16, 8, 8), n=-1),
    "half a window of channels": lambda: lrn(zeros(1, 16, 8, 8), n=2.5),
    "pooling of 1 x 1 pixel": lambda: lrn(zeros(1, 16, 1, 1)),
    "pooling of no pixels": lambda: lrn(zeros(1, 16, 0, 0)),
    "conv1 of integers": lambda: conv1(zeros(1, 3, 224, 224, dtype=torch.uint8)),
    "conv1 of four channels": lambda: conv1(zeros(1, 4, 224, 224)),
    "conv1 of too few pixels": lambda: conv1(zeros(1, 3, 4, 4)),
    "conv1 of three dimensions": lambda: conv1(zeros(3, 224, 224)),
    "conv1 with too few biases": lambda: conv1(zeros(1, 3, 224, 224), bias=3),
    "other channels than the filters'": lambda: conv2d(zeros(1, 32, 9, 9, dtype=BF16)),
    "too few biases": lambda: conv2d(zeros(1, 16, 9, 9, dtype=BF16), bias=3),
    "an image smaller than a filter": lambda: conv2d(zeros(1, 16, 2, 2, dtype=BF16), pad=0),
    "an image without pixels": lambda: conv2d(zeros(1, 16, 0, 0, dtype=BF16), pad=2),
    "negative padding": lambda: conv2d(zeros(1, 16, 9, 9, dtype=BF16), pad=-1),
    "filters without pixels": lambda: conv2d(zeros(1, 16, 9, 9, dtype=BF16), weight=(16, 16, 0, 0)),
    "a crop beyond the image": lambda: crop(top=np.full(2, 7)),
    "a crop's place in fractions": lambda: crop(top=np.zeros(2)),
    "a crop's place in two dimensions": lambda: crop(top=np.zeros((2, 2), np.int64)),
    "flips that are no booleans": lambda: crop(flip=np.zeros(2)),
    "an angle of NaN": lambda: crop(angle=np.full(2, np.nan, np.float32)),
    "angles that are integers": lambda: crop(angle=np.zeros(2, np.int64)),
}


@pytest.mark.parametrize("mode", ["auto", "reference"])
@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_do_not_belong_together_are_refused(name, mode):
    kernels.use(mode)
    try:
        with pytest.raises(ValueError):  # noqa: PT011 - each check has words of its own
            WRONG[name]()
    finally:
        kernels.use("auto")


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize(
    ("gradient", "positions", "window"),
    [((3, 3), (2, 2), 3), ((200, 200), (200, 200), 3), ((2, 2), (2, 2), 3), ((3, 3), (3, 3), None)],
)
def test_a_gradient_of_another_layer_is_refused(gradient, positions, window, dtype):
    """Of 8 x 8 pixels, whose outputs are 3 x 3."""
    dy, position = zeros(1, 16, *gradient, dtype=dtype), zeros(1, 16, *positions, dtype=torch.uint8)
    x = zeros(1, 16, 8, 8, dtype=dtype)
    backends = [lrn_pool_numba]
    if avx512.AVAILABLE and dtype == BF16 and window:
        backends.append(avx512)
    for backend in backends:
        with pytest.raises(ValueError, match=r"gradient for|not those of such a layer"):
            backend._backward(x, dy, position, True, window, 5, 2.0, 1e-4, 0.75)


def raw(*sizes):
    """Arrays of these numbers of elements: negative numbers stand for float32, others for bfloat16."""
    return [np.zeros(abs(n), np.float32 if n < 0 else np.uint16) for n in sizes]


@pytest.mark.usefixtures("amx_build")
@pytest.mark.parametrize(
    ("sizes", "shape", "side", "pad"),
    [
        ((0, 2304, -16, 0), (2**60, 9, 9, 16), 3, 1),  # whose product is 0 in 64 bits
        ((0, 2304, -16, 0), (1, 2**31, 2**31, 16), 3, 1),
        ((144, 6400, -16, 16), (1, -3, -3, 16), 5, 4),
        ((-648, 2304, -16, 1296), (1, 9, 9, 16), 3, 1),  # the right bytes, of another dtype
    ],
)
def test_sizes_that_only_seem_to_fit_a_convolution_are_refused_in_c(sizes, shape, side, pad):
    with pytest.raises(ValueError, match="not those of such a convolution"):
        amx._convolve.convolve(*raw(*sizes), shape, 16, side, pad, False, 1)
    sums = raw(-(side * side * 16 + 16) * 16)
    with pytest.raises(ValueError, match="not those of such a convolution"):
        amx._weight_gradient.weight_gradient(*raw(sizes[0], sizes[3]), *sums, shape, 16, side, pad, (1, 1))


@pytest.mark.usefixtures("amx_build")
def test_more_threads_than_can_be_started_are_refused_in_c():
    arrays = raw(1296, 1296, -160 * 16)
    amx._weight_gradient.weight_gradient(*arrays, (1, 9, 9, 16), 16, 3, 1, (1, 1))
    with pytest.raises(ValueError, match="not those of such a convolution"):
        amx._weight_gradient.weight_gradient(*arrays, (1, 9, 9, 16), 16, 3, 1, (1, 100_000))
    assert np.prod(amx.divide(100_000, 100_000, 100_000)) <= 1024


@pytest.mark.usefixtures("avx512_build")
def test_sizes_that_only_seem_to_fit_are_refused_in_c():
    none = np.zeros(0, np.uint8)
    with pytest.raises(ValueError, match="not those of such a layer"):
        avx512._lrn_pool.forward(*raw(0, 0), none, (2**60, 9, 9, 16), 2.0, 1e-4, 1)
    with pytest.raises(ValueError, match="not of one length"):
        avx512._sgd.sgd(np.zeros(256, np.uint8), *raw(-64, -64, 64), 0.9, 0.1, 0.1, 1)
    avx512._sgd.sgd(*raw(-64, -64, -64, 64), 0.9, 0.1, 0.1, 1_000_000)  # starts fewer threads
