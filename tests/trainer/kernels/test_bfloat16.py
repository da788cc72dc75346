"""bfloat16 in compiled loops: torch's own conversions, for every number that there is; and wide vectors."""

import numba
import numpy as np
import pytest
import torch

from trainer.kernels.bfloat16 import add_rows, as_array, narrowed, wide_vectors, widened


def widen_all(bits, out):
    for i in range(bits.size):
        out[i] = widened(bits[i])


def narrow_all(numbers, out):
    for i in range(numbers.size):
        out[i] = narrowed(numbers[i], out[i])


def forms(function):
    return [pytest.param(function, id="python"), pytest.param(numba.njit(function), id="compiled")]


@pytest.mark.parametrize("form", forms(widen_all))
def test_widens_every_bfloat16(form):
    bits = np.arange(2**16, dtype=np.uint16)
    said = np.empty(bits.size, np.float32)
    form(bits, said)
    expected = torch.from_numpy(bits).view(torch.bfloat16).float()
    assert torch.equal(torch.from_numpy(said).view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("form", forms(narrow_all))
def test_rounds_to_nearest_and_ties_to_even(form):
    draw = np.random.default_rng(1)
    upper = draw.integers(0, 2**16, 20_000, dtype=np.uint32) << np.uint32(16)
    lower = draw.choice(np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32), 20_000)
    numbers = (upper | lower).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    said = np.empty(numbers.size, np.uint16)
    with np.errstate(over="ignore"):
        form(numbers, said)
    assert np.array_equal(said, as_array(torch.from_numpy(numbers).bfloat16()))


def test_float32_stays_what_it_is():
    number = np.float32(1 / 3)
    assert widened(number) == number
    assert narrowed(number, np.float32(0)) == number


def test_rows_are_added_in_float32_and_rounded_once():
    rows = torch.randn(4, 3000, generator=torch.Generator().manual_seed(2)).bfloat16()
    out = rows[0].clone()
    add_rows(as_array(rows[1:]), as_array(out))
    assert torch.equal(out, (((rows[0].float() + rows[1]) + rows[2]) + rows[3]).bfloat16())


@numba.njit
def twice(numbers, out):
    wide_vectors()
    for i in range(numbers.size):
        out[i] = 2 * numbers[i]


def test_a_loop_may_ask_for_the_widest_vectors():
    numbers = np.arange(100, dtype=np.float32)
    out = np.empty_like(numbers)
    twice(numbers, out)
    assert np.array_equal(out, numbers + numbers)
    (code,) = twice.inspect_llvm().values()
    assert '"prefer-vector-width"="512"' in code
