"""stand_in.h has the bits of the processor's instructions."""

import ctypes

import numpy as np
import pytest
import torch

from tests.trainer.kernels import stand_in
from trainer.kernels import amx, avx512

needs_amx = pytest.mark.skipif(not amx.AVAILABLE, reason="no AMX to compare with")
BFLOAT16, FLOAT32 = np.uint16, np.float32


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """tiles.c with the processor's instructions, and in plain C."""
    folder = tmp_path_factory.mktemp("tiles")
    for name, options in (("processor", ()), ("plain", (stand_in.PLAIN,))):
        stand_in.compile_c(stand_in.HERE / "tiles.c", folder / f"{name}.so", *options)
    return [ctypes.PyDLL(str(folder / f"{name}.so")) for name in ("processor", "plain")]


def call(function, *arrays):
    function(*(array.ctypes.data_as(ctypes.c_void_p) for array in arrays))


def check_same_bits(one, other):
    """Which NaN it is does not matter."""
    same = (one.view(np.uint32) == other.view(np.uint32)) | (np.isnan(one) & np.isnan(other))
    assert same.all(), (one[~same], other[~same])


def config(rows, pairs, columns):
    """Tile 0 of rows x columns, tile 1 of rows x pairs, tile 2 of pairs x columns, 4 bytes each."""
    found = np.zeros(64, np.uint8)
    found[0] = 1
    found[16:22].view(np.uint16)[:] = 4 * columns, 4 * pairs, 4 * columns
    found[48:51] = rows, rows, pairs
    return found


def upper_halves(numbers):
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(BFLOAT16)


def scaled(draw, shape, least, most):
    """Numbers of both signs whose exponents of two are from `least` to `most`, about."""
    return draw.standard_normal(shape) * np.exp2(draw.integers(least, most, shape, endpoint=True))


NUMBERS = {
    "about 1": lambda draw, shape: scaled(draw, shape, 0, 0),
    "of many sizes": lambda draw, shape: scaled(draw, shape, -60, 60),
    "whose products are denormal": lambda draw, shape: scaled(draw, shape, -70, -60),
    "whose products are infinite": lambda draw, shape: scaled(draw, shape, 55, 66),
    "of any bits": lambda draw, shape: draw.integers(0, 2**32, shape, np.uint32).view(FLOAT32),
}


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.processor
@needs_amx
def test_products_of_tiles_of_all_sizes_have_the_units_bits(kind, builds):
    draw = np.random.default_rng(0)
    for _ in range(300):
        shape = config(*draw.integers(1, 16, 3, endpoint=True))
        one, two = (upper_halves(NUMBERS[kind](draw, (16, 32))) for _ in range(2))
        sums = NUMBERS[kind](draw, (16, 16)).astype(FLOAT32)
        results = []
        for build in builds:
            results.append(sums.copy())
            call(build.multiply_tiles, shape, one, two, results[-1])
        check_same_bits(*results)


@pytest.mark.processor
@needs_amx
def test_sums_near_the_least_normal_number_are_flushed_as_the_unit_does(builds):
    """2^-126 less a quarter to five quarters of the last place of the numbers below it."""
    one, two = np.zeros((2, 16, 32), BFLOAT16)
    one[0, :4:2] = upper_halves(np.array([2.0**-63, -(2.0**-75)]))
    two[0, 0] = upper_halves(np.array([2.0**-63]))[0]
    found = []
    for part in (0.25, 0.5, 0.75, 1, 1.25):
        two[1, 0] = upper_halves(np.array([part * 2.0**-75]))[0]
        results = []
        for build in builds:
            results.append(np.zeros((16, 16), FLOAT32))
            call(build.multiply_tiles, config(16, 16, 16), one, two, results[-1])
        check_same_bits(*results)
        found.append(results[0][0, 0] > 0)
    assert found == [True, True, False, False, False]


@pytest.mark.processor
@needs_amx
def test_rounding_to_bfloat16_has_the_processors_bits(builds):
    draw = np.random.default_rng(0)
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        numbers = (upper | np.uint32(lower)).view(FLOAT32)
        draw.shuffle(numbers)
        for at in range(0, numbers.size, 32):
            results = np.empty((2, 32), BFLOAT16)
            for build, result in zip(builds, results, strict=True):
                call(build.round_numbers, numbers[at : at + 32], result)
            assert np.array_equal(*results), numbers[at : at + 32]


def numbers(*shape, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def convolution():
    x, weight_OkkC = numbers(3, 48, 9, 7), numbers(48, 3, 3, 48, seed=1)
    x[1, 2, 3, 4] = float("inf")
    y = amx.convolve(x, weight_OkkC.contiguous(), numbers(48, seed=2), 1, relu=True)
    return y, *amx.weight_gradient(x, numbers(3, 48, 9, 7, seed=3), 3, 1)


def normalisation():
    x = (numbers(2, 48, 9, 8) * 50).requires_grad_()
    y = avx512.relu_lrn_pool(x, True, 3, 5, 2.0, 1e-4, 0.75)
    y.backward(numbers(*y.shape, seed=1))
    return y.detach(), x.grad


def update():
    w, v = numbers(1500).float(), numbers(1500, seed=1).float()
    g, rounded = numbers(1500, seed=2), numbers(1500)
    avx512.sgd_(w, v, g, rounded, 0.9, 0.01, 0.1)
    return w, v, g, rounded


@pytest.mark.parametrize("module", [amx, avx512])
@pytest.mark.processor
def test_kernels_have_the_bits_of_the_processors_instructions(module, in_plain_c, monkeypatch):
    if not module.AVAILABLE:
        pytest.skip(f"this processor lacks the instructions of {module.__name__}")
    of_module = {amx: [convolution], avx512: [normalisation, update]}[module]
    right = [y for kernel in of_module for y in kernel()]
    stand_in.take(module, in_plain_c, monkeypatch)
    for found, expected in zip((y for kernel in of_module for y in kernel()), right, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
