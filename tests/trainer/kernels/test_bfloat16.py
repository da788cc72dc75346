"""bfloat16 in Numba loops: torch's own conversions, for every bfloat16 number; and vectors of 512 bits."""

import numba
import numpy as np
import pytest
import torch

from trainer.kernels.bfloat16 import as_array, from_float32, to_float32, use_512_bits


def all_to_float32(bits, out):
    for i in range(bits.size):
        out[i] = to_float32(bits[i])


def all_from_float32(numbers, out):
    for i in range(numbers.size):
        out[i] = from_float32(numbers[i], out[i])


def forms(function):
    return [pytest.param(function, id="python"), pytest.param(numba.njit(function), id="compiled")]


@pytest.mark.parametrize("form", forms(all_to_float32))
def test_converts_every_bfloat16(form):
    bits = np.arange(2**16, dtype=np.uint16)
    found = np.empty(bits.size, np.float32)
    form(bits, found)
    expected = torch.from_numpy(bits).view(torch.bfloat16).float()
    assert torch.equal(torch.from_numpy(found).view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("form", forms(all_from_float32))
def test_rounds_to_nearest_and_ties_to_even(form):
    draw = np.random.default_rng(1)
    upper = draw.integers(0, 2**16, 20_000, dtype=np.uint32) << np.uint32(16)
    lower = draw.choice(np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32), 20_000)
    numbers = (upper | lower).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    found = np.empty(numbers.size, np.uint16)
    with np.errstate(over="ignore"):
        form(numbers, found)
    assert np.array_equal(found, as_array(torch.from_numpy(numbers).bfloat16()))


def test_float32_stays_what_it_is():
    number = np.float32(1 / 3)
    assert to_float32(number) == number
    assert from_float32(number, np.float32(0)) == number


@numba.njit
def twice(numbers, out):
    use_512_bits()
    for i in range(numbers.size):
        out[i] = 2 * numbers[i]


def test_a_loop_may_use_512_bits():
    numbers = np.arange(100, dtype=np.float32)
    out = np.empty_like(numbers)
    twice(numbers, out)
    assert np.array_equal(out, numbers + numbers)
    (code,) = twice.inspect_llvm().values()
    assert '"prefer-vector-width"="512"' in code
