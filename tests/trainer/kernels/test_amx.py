"""Convolutions on the matrix unit, both ways, compared with torch's in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer import kernels
from trainer.kernels import amx, reference

needs_amx = pytest.mark.skipif(
    not amx.AVAILABLE, reason="no AMX in this processor, or trainer/kernels/_convolve.c is not built"
)

# images, height, width, channels, filters, pixels along a filter, pad
LAYERS = {
    "conv1 over blocks": (3, 57, 57, 48, 48, 3, 0),
    "conv2": (4, 27, 27, 48, 128, 5, 2),
    "conv3": (5, 13, 13, 256, 192, 3, 1),
    "conv5": (8, 13, 13, 192, 128, 3, 1),
    "more images than are multiplied together": (21, 13, 13, 256, 192, 3, 1),
    "one image": (1, 6, 6, 16, 16, 3, 1),
    "filters of one pixel": (3, 4, 7, 32, 16, 1, 0),
    "one pixel": (2, 1, 1, 16, 48, 3, 1),
    "more zeros than pixels": (3, 2, 3, 16, 32, 5, 4),
    "higher than wide": (2, 19, 5, 16, 16, 5, 2),
}


def tensors(images, height, width, channels, filters, side, pad):
    draw = torch.Generator().manual_seed(0)
    rows, columns = (length + 2 * pad - side + 1 for length in (height, width))
    shapes = (images, channels, height, width), (images, filters, rows, columns)
    return [
        torch.randn(shape, generator=draw).bfloat16().contiguous(memory_format=torch.channels_last)
        for shape in shapes
    ]


def torchs_gradients(x, dy, side, pad):
    """Of weights and biases, in the arguments' dtype."""
    weight = torch.zeros(dy.shape[1], x.shape[1], side, side, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(dy.shape[1], dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(F.conv2d(x, weight, bias, padding=pad), (weight, bias), dy)


def check_rounded_once(found, exact, sizes):
    """`sizes` are the sums of the terms' sizes."""
    for got, right, size in zip(found, exact, sizes, strict=True):
        assert got.dtype == torch.bfloat16
        assert got.shape == right.shape
        # bfloat16 keeps 8 binary places; and float32's own error in the sum.
        assert ((got.double() - right).abs() <= right.abs() * 2**-8 + size * 1e-6).all()


@pytest.mark.parametrize("threads", [1, 3, 24])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.processor
@needs_amx
def test_gradients_are_sums_in_float32_rounded_once(layer, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    *_, side, pad = layer
    x, dy = tensors(*layer)
    exact = torchs_gradients(x.double(), dy.double(), side, pad)
    sizes = torchs_gradients(x.double().abs(), dy.double().abs(), side, pad)
    check_rounded_once(amx.weight_gradient(x, dy, side, pad), exact, sizes)


@pytest.mark.parametrize("threads", [1, 3, 24])
@pytest.mark.parametrize("layer", [*LAYERS.values(), (2, 6, 9, 80, 16, 2, 1)], ids=[*LAYERS, "an even side"])
@pytest.mark.processor
@needs_amx
def test_outputs_and_input_gradients_are_sums_in_float32_rounded_once(layer, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    channels, filters, side, pad = layer[3:]
    x, dy = tensors(*layer)
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(filters, channels, side, side, generator=draw).bfloat16()
    bias = torch.randn(filters, generator=draw).bfloat16()

    def both_ways(convolution, change):
        x_, weight_, bias_, dy_ = (change(t.clone()) for t in (x, weight, bias, dy))
        y = convolution(x_.requires_grad_(), weight_, bias_, padding=pad)
        return y.detach(), *torch.autograd.grad(y, x_, dy_)

    found = both_ways(lambda *args, padding: amx.conv2d(*args, padding, False), lambda t: t)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    exact = both_ways(F.conv2d, torch.Tensor.double)
    check_rounded_once(found, exact, both_ways(F.conv2d, lambda t: t.double().abs()))


@pytest.mark.parametrize(
    "conv2d", [pytest.param(amx.conv2d, marks=[pytest.mark.processor, needs_amx]), reference.conv2d]
)
def test_a_relu_in_the_layer_has_the_bits_of_one_after_it(conv2d):
    x, dy = tensors(*LAYERS["higher than wide"])
    x[1, 2, 3, 4] = float("nan")
    draw = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(16, 16, 5, 5, generator=draw).bfloat16(), torch.zeros(16).bfloat16()
    results = []
    for form in (
        lambda *args: conv2d(*args, 2, True),
        lambda *args: F.relu(conv2d(*args, 2, False)),
    ):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = form(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, dy)])
    assert results[0][0].isnan().sum() == 16 * 5 * 3  # windows 5 rows high; the image is 5 columns wide
    for within, after in zip(*results, strict=True):
        torch.testing.assert_close(within, after, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("channel", [3, 40])  # of the first 32, and of the 16 that are left over
@pytest.mark.processor
@needs_amx
def test_an_infinite_number_reaches_the_windows_that_hold_it_alone(channel):
    x = torch.ones(2, 48, 9, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    x[1, channel, 4, 5] = float("inf")
    weight, bias = torch.ones(16, 48, 3, 3).bfloat16(), torch.zeros(16).bfloat16()
    y = amx.conv2d(x, weight, bias, 1, False)
    seen = ~y.isfinite()
    assert seen[1, :, 3:6, 4:7].all()
    assert seen.sum() == 16 * 9


@pytest.mark.processor
@needs_amx
def test_parts_of_a_batch_add_up_and_sums_are_added_to():
    *_, side, pad = layer = LAYERS["conv5"]
    x, dy = (t.permute(0, 2, 3, 1).contiguous().view(torch.uint16).numpy() for t in tensors(*layer))
    shape, filters = x.shape, dy.shape[3]

    def sums(*parts):
        total = np.zeros((1, shape[3] // 16 * side**2 + 1, filters, 16), np.float32)
        for part in parts:
            amx._weight_gradient.weight_gradient(
                x[part], dy[part], total, x[part].shape, filters, side, pad, (1, 1)
            )
        return total

    whole = sums(slice(None))
    for parts, times in ((slice(0, 3), slice(3, 8)), 1), ((slice(None), slice(None)), 2):
        assert np.abs(sums(*parts) - times * whole).max() < 1e-5 * np.abs(whole).max()


@pytest.mark.processor
@needs_amx
@pytest.mark.parametrize(
    "change",
    [
        {"filters": 32},
        {"filters": 8},
        {"side": 1},
        {"pad": 3},
        {"pad": -1},
        {"shape": (2, 4, 4, 8)},
        {"shape": (0, 4, 4, 16)},
        {"parts": (2, 1)},
        {"parts": (1, 0)},
    ],
    ids=str,
)
def test_arrays_of_another_convolution_are_refused(change):
    right = {"shape": (2, 4, 4, 16), "filters": 16, "side": 3, "pad": 1, "parts": (1, 1)}
    arrays = [np.zeros((2, 4, 4, 16), np.uint16)] * 2 + [np.zeros((10, 16, 16), np.float32)]
    amx._weight_gradient.weight_gradient(*arrays, *right.values())
    with pytest.raises(ValueError, match="not those of such a convolution"):
        amx._weight_gradient.weight_gradient(*arrays, *(right | change).values())


@pytest.mark.processor
@needs_amx
@pytest.mark.parametrize(
    "change",
    [
        {"filters": 32},
        {"filters": 8},
        {"side": 5},
        {"pad": 3},
        {"pad": -1},
        {"shape": (0, 4, 4, 48)},
        {"threads": 3},
        {"threads": 0},
    ],
    ids=str,
)
def test_a_convolution_of_other_arrays_is_refused(change):
    right = {"shape": (2, 4, 4, 48), "filters": 16, "side": 3, "pad": 1, "relu": True, "threads": 2}
    x, weights, y = (np.zeros(n, np.uint16) for n in (2 * 4 * 4 * 48, 16 * 9 * 48, 2 * 4 * 4 * 16))
    arrays = x, weights, np.zeros(16, np.float32), y
    amx._convolve.convolve(*arrays, *right.values())
    with pytest.raises(ValueError, match="not those of such a convolution"):
        amx._convolve.convolve(*arrays, *(right | change).values())


@pytest.mark.parametrize("threads", [1, 2, 5, 8, 32, 224])
@pytest.mark.parametrize(("images", "filters"), [(128, 48), (64, 192), (7, 128), (1, 16)])
def test_the_work_is_divided_among_threads(threads, images, filters):
    of_images, of_filters = amx.divide(threads, images, filters)
    assert 0 < of_images <= -(-images // 2)
    assert 0 < of_filters <= -(-filters // 32)
    assert of_images * of_filters <= threads
    assert of_images * of_filters >= min(threads, images // 2 * (filters // 32)) // 2


@pytest.mark.parametrize("why", ["reference", "float32", "channels for no tile"])
def test_torch_computes_what_the_unit_cannot(why):
    channels = 20 if why == "channels for no tile" else 32
    dtype = torch.float32 if why == "float32" else torch.bfloat16
    x, dy = (t.to(dtype) for t in tensors(2, 5, 5, channels, 16, 3, 1))
    weight, bias = torch.randn(16, channels, 3, 3).to(dtype), torch.randn(16).to(dtype)
    kernels.use("reference" if why == "reference" else "auto")
    results = []
    for conv2d in (lambda *args: kernels.conv2d(*args, pad=1), lambda *args: F.conv2d(*args, padding=1)):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = conv2d(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, dy)])
    kernels.use("auto")
    assert all(map(torch.equal, *results))
