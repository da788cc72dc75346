"""Convolutions on the matrix unit, both ways, compared with torch's in float64."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer import kernels
from trainer.kernels import amx, reference

# images, height, width, channels, filters, pixels along a filter, pad
LAYERS = {
    "conv1 over blocks": (3, 8, 57, 48, 48, 3, 0),
    "conv2": (3, 7, 27, 48, 48, 5, 2),
    "more images than are multiplied together": (7, 13, 13, 256, 16, 3, 1),
    "the longest stretch of tiles": (2, 15, 16, 16, 48, 3, 1),
    "one image": (1, 6, 6, 16, 16, 3, 1),
    "filters of one pixel": (3, 4, 7, 32, 16, 1, 0),
    "one pixel": (2, 1, 1, 16, 48, 3, 1),
    "more zeros than pixels": (3, 2, 3, 16, 32, 5, 4),
    "higher than wide": (2, 19, 5, 16, 16, 5, 2),
}
THREADS = (1, 3, 24)


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


def check_rounded_once(found, exact, sizes, threads):
    """`sizes` are the sums of the terms' sizes."""
    for got, right, size in zip(found, exact, sizes, strict=True):
        assert got.dtype == torch.bfloat16
        assert got.shape == right.shape
        # bfloat16 keeps 8 binary places; and float32's own error in the sum.
        close = (got.double() - right).abs() <= right.abs() * 2**-8 + size * 1e-6
        assert close.all(), f"{threads} threads: {(~close).sum()} of {close.numel()} numbers are wrong"


@functools.cache
def exact_gradients(layer):
    """Of weights and biases in float64, and the sums of the terms' sizes."""
    *_, side, pad = layer
    x, dy = (t.double() for t in tensors(*layer))
    return torchs_gradients(x, dy, side, pad), torchs_gradients(x.abs(), dy.abs(), side, pad)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.usefixtures("amx_build")
def test_gradients_are_sums_in_float32_rounded_once(layer, monkeypatch):
    *_, side, pad = layer
    for threads in THREADS:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found = amx.weight_gradient(*tensors(*layer), side, pad)
        check_rounded_once(found, *exact_gradients(layer), threads)


def both_ways(convolution, layer, change):
    """Outputs, and the inputs' gradients, of the layer's tensors after a change."""
    channels, filters, side, pad = layer[3:]
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(filters, channels, side, side, generator=draw).bfloat16()
    bias = torch.randn(filters, generator=draw).bfloat16()
    x, dy, weight, bias = (change(t) for t in (*tensors(*layer), weight, bias))
    y = convolution(x.requires_grad_(), weight, bias, padding=pad)
    return y.detach(), *torch.autograd.grad(y, x, dy)


@functools.cache
def exact_both_ways(layer):
    """In float64, and the sums of the terms' sizes."""
    return both_ways(F.conv2d, layer, torch.Tensor.double), both_ways(
        F.conv2d, layer, lambda t: t.double().abs()
    )


@pytest.mark.parametrize("layer", [*LAYERS.values(), (2, 6, 9, 80, 16, 2, 1)], ids=[*LAYERS, "an even side"])
@pytest.mark.usefixtures("amx_build")
def test_outputs_and_input_gradients_are_sums_in_float32_rounded_once(layer, monkeypatch):
    for threads in THREADS:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found = both_ways(lambda *args, padding: amx.conv2d(*args, padding, False), layer, torch.clone)
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        check_rounded_once(found, *exact_both_ways(layer), threads)


def check_relu_in_the_layer(conv2d):
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


@pytest.mark.usefixtures("amx_build")
def test_a_relu_in_the_layer_has_the_bits_of_one_after_it():
    check_relu_in_the_layer(amx.conv2d)


def test_a_relu_in_the_references_layer_has_the_bits_of_one_after_it():
    check_relu_in_the_layer(reference.conv2d)


@pytest.mark.parametrize("channel", [3, 40])  # of the first 32, and of the 16 that are left over
@pytest.mark.usefixtures("amx_build")
def test_an_infinite_number_reaches_the_windows_that_hold_it_alone(channel):
    x = torch.ones(2, 48, 9, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    x[1, channel, 4, 5] = float("inf")
    weight, bias = torch.ones(16, 48, 3, 3).bfloat16(), torch.zeros(16).bfloat16()
    y = amx.conv2d(x, weight, bias, 1, False)
    seen = ~y.isfinite()
    assert seen[1, :, 3:6, 4:7].all()
    assert seen.sum() == 16 * 9


@pytest.mark.usefixtures("amx_build")
def test_parts_of_a_batch_add_up_and_sums_are_added_to():
    *_, side, pad = layer = 8, 13, 13, 32, 48, 3, 1
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


@pytest.mark.usefixtures("amx_build")
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


@pytest.mark.usefixtures("amx_build")
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
