"""Convolutions by the matrix unit, both ways, beside torch's own in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer.kernels import conv

needs_unit = pytest.mark.skipif(
    not conv.HAS_UNIT, reason="no AMX in this processor, or trainer/kernels/_convolve.c is not built"
)

# images, height, width, channels, filters, side, pad
LAYERS = {
    "conv1 in blocks": (3, 57, 57, 48, 48, 3, 0),
    "conv2": (4, 27, 27, 48, 128, 5, 2),
    "conv3": (5, 13, 13, 256, 192, 3, 1),
    "conv5": (8, 13, 13, 192, 128, 3, 1),
    "more pictures than are multiplied together": (21, 13, 13, 256, 192, 3, 1),
    "one picture": (1, 6, 6, 16, 16, 3, 1),
    "windows of one pixel": (3, 4, 7, 32, 16, 1, 0),
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


def of_weights(x, dy, side, pad):
    """Both gradients by torch, in the dtype of its arguments."""
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
@needs_unit
def test_gradients_are_sums_in_float32_rounded_once(layer, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    *_, side, pad = layer
    x, dy = tensors(*layer)
    exact = of_weights(x.double(), dy.double(), side, pad)
    sizes = of_weights(x.double().abs(), dy.double().abs(), side, pad)
    check_rounded_once(conv.gradients(x, dy, side, pad), exact, sizes)


@pytest.mark.parametrize("threads", [1, 3, 24])
@pytest.mark.parametrize("layer", [*LAYERS.values(), (2, 6, 9, 80, 16, 2, 1)], ids=[*LAYERS, "an even side"])
@pytest.mark.processor
@needs_unit
def test_what_is_said_and_handed_down_is_a_sum_in_float32_rounded_once(layer, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    channels, filters, side, pad = layer[3:]
    x, dy = tensors(*layer)
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(filters, channels, side, side, generator=draw).bfloat16()
    bias = torch.randn(filters, generator=draw).bfloat16()

    def both_ways(convolution, change):
        x_, weight_, bias_, dy_ = (change(t.clone()) for t in (x, weight, bias, dy))
        said = convolution(x_.requires_grad_(), weight_, bias_, padding=pad)
        return said.detach(), *torch.autograd.grad(said, x_, dy_)

    found = both_ways(lambda *args, padding: conv.convolution(*args, pad=padding), lambda t: t)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    exact = both_ways(F.conv2d, torch.Tensor.double)
    check_rounded_once(found, exact, both_ways(F.conv2d, lambda t: t.double().abs()))


@pytest.mark.parametrize("unit", [pytest.param(True, marks=[pytest.mark.processor, needs_unit]), False])
def test_a_relu_in_the_layer_has_the_bits_of_one_after_it(unit, monkeypatch):
    monkeypatch.setattr(conv, "HAS_UNIT", unit)
    x, dy = tensors(*LAYERS["higher than wide"])
    x[1, 2, 3, 4] = float("nan")
    draw = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(16, 16, 5, 5, generator=draw).bfloat16(), torch.zeros(16).bfloat16()
    results = []
    for form in (
        lambda *args: conv.convolution(*args, pad=2, relu=True),
        lambda *args: F.relu(conv.convolution(*args, pad=2)),
    ):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        said = form(*leaves)
        results.append([said.detach(), *torch.autograd.grad(said, leaves, dy)])
    assert results[0][0].isnan().sum() == 16 * 5 * 3  # windows 5 rows high; the picture ends beside it
    for within, after in zip(*results, strict=True):
        torch.testing.assert_close(within, after, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("channel", [3, 40])  # of the first 32, and of the 16 that are left over
@pytest.mark.processor
@needs_unit
def test_what_is_infinite_reaches_the_windows_that_see_it_alone(channel):
    x = torch.ones(2, 48, 9, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    x[1, channel, 4, 5] = float("inf")
    weight, bias = torch.ones(16, 48, 3, 3).bfloat16(), torch.zeros(16).bfloat16()
    said = conv.convolution(x, weight, bias, pad=1)
    seen = ~said.isfinite()
    assert seen[1, :, 3:6, 4:7].all()
    assert seen.sum() == 16 * 9


@pytest.mark.processor
@needs_unit
def test_parts_of_a_batch_add_up_and_sums_are_added_to():
    *_, side, pad = layer = LAYERS["conv5"]
    x, dy = (t.permute(0, 2, 3, 1).contiguous().view(torch.uint16).numpy() for t in tensors(*layer))
    shape, filters = x.shape, dy.shape[3]

    def sums(*parts):
        total = np.zeros((1, shape[3] // 16 * side**2 + 1, filters, 16), np.float32)
        for part in parts:
            conv._weight_gradient.weight_gradient(
                x[part], dy[part], total, x[part].shape, filters, side, pad, (1, 1)
            )
        return total

    whole = sums(slice(None))
    for parts, times in ((slice(0, 3), slice(3, 8)), 1), ((slice(None), slice(None)), 2):
        assert np.abs(sums(*parts) - times * whole).max() < 1e-5 * np.abs(whole).max()


@pytest.mark.processor
@needs_unit
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
    conv._weight_gradient.weight_gradient(*arrays, *right.values())
    with pytest.raises(ValueError, match="not those of such a convolution"):
        conv._weight_gradient.weight_gradient(*arrays, *(right | change).values())


@pytest.mark.processor
@needs_unit
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
    conv._convolve.convolve(*arrays, *right.values())
    with pytest.raises(ValueError, match="not those of such a convolution"):
        conv._convolve.convolve(*arrays, *(right | change).values())


@pytest.mark.parametrize("threads", [1, 2, 5, 8, 32, 224])
@pytest.mark.parametrize(("pictures", "filters"), [(128, 48), (64, 192), (7, 128), (1, 16)])
def test_the_work_is_divided_among_threads(threads, pictures, filters):
    of_pictures, of_filters = conv._parts(threads, pictures, filters)
    assert 0 < of_pictures <= -(-pictures // 2)
    assert 0 < of_filters <= -(-filters // 32)
    assert of_pictures * of_filters <= threads
    assert of_pictures * of_filters >= min(threads, pictures // 2 * (filters // 32)) // 2


def run(layer, x, dy):
    """What a layer says, and the gradients of its input, weights and biases."""
    x = x.clone().requires_grad_()
    said = layer(x)
    return [said.detach(), *torch.autograd.grad(said, (x, layer.weight, layer.bias), dy)]


@pytest.mark.parametrize("layer", ["conv2", "higher than wide"])
def test_a_layer_says_what_torchs_layer_says_and_hands_down_its_gradients(layer):
    *_, channels, filters, side, pad = LAYERS[layer]
    x, dy = tensors(*LAYERS[layer])
    ours, theirs = (
        kind(channels, filters, side, padding=pad).bfloat16() for kind in (conv.Conv2d, torch.nn.Conv2d)
    )
    ours.load_state_dict(theirs.state_dict())
    said, *gradients = run(ours, x, dy)
    right, *expected = run(theirs, x, dy)
    for got, other in zip([said, *gradients], [right, *expected], strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - other).norm() <= 2**-7 * other.norm()  # torch's sums are rounded, too


@pytest.mark.parametrize("why", ["no unit", "float32", "channels for no tile"])
def test_torch_does_what_the_unit_cannot(why, monkeypatch):
    channels, dtype = 20 if why == "channels for no tile" else 32, torch.bfloat16
    if why == "no unit":
        monkeypatch.setattr(conv, "HAS_UNIT", False)
    if why == "float32":
        dtype = torch.float32
    x, dy = (t.to(dtype) for t in tensors(2, 5, 5, channels, 16, 3, 1))
    layer = conv.Conv2d(channels, 16, 3, padding=1).to(dtype)
    theirs = torch.nn.Conv2d(channels, 16, 3, padding=1).to(dtype)
    theirs.load_state_dict(layer.state_dict())
    assert all(map(torch.equal, run(layer, x, dy), run(theirs, x, dy)))
