"""The update and the sum of gradients over flat arrays: bits, beginnings and ends, arrays that do not fit."""

import numpy as np
import pytest
import torch

from trainer import kernels
from trainer.kernels import avx512
from trainer.kernels.bfloat16 import as_array


def test_rows_are_added_in_float32_and_rounded_once():
    rows = torch.randn(4, 3000, generator=torch.Generator().manual_seed(2)).bfloat16()
    total = rows[0].clone()
    kernels.sum_rows_(total, rows[1:])
    assert torch.equal(total, (((rows[0].float() + rows[1]) + rows[2]) + rows[3]).bfloat16())


@pytest.mark.parametrize("gradients", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("avx512_build")
def test_the_update_in_c_begins_and_ends_anywhere(threads, gradients):
    dtypes = torch.float32, torch.float32, gradients, torch.bfloat16
    draw = torch.Generator().manual_seed(0)
    for first, size in [(0, 64), (1, 31), (2, 32), (31, 97), (5, 0), (7, 1), (63, 1500)]:
        mine, end = slice(first, first + size), size + first + 40
        before = [torch.randn(end, generator=draw, dtype=torch.float32) for _ in range(4)]
        w, v, g, rounded = (x.clone().to(dtype) for x, dtype in zip(before, dtypes, strict=True))
        g_before, rounded_before = g.clone(), rounded.clone()
        arrays = [as_array(x)[mine] for x in (w, v, g, rounded)]
        avx512._sgd.sgd(*arrays, 0.9, 0.01, 0.1, threads)
        exact_v = 0.9 * before[1].double() - 0.01 * before[0].double() - 0.1 * g_before.double()
        exact_w = before[0].double() + exact_v
        for found, exact, kept in ((v, exact_v, before[1]), (w, exact_w, before[0])):
            np.testing.assert_allclose(found[mine], exact[mine], rtol=0, atol=1e-6)
            assert torch.equal(found[:first], kept[:first])
            assert torch.equal(found[mine.stop :], kept[mine.stop :])
        rounded_before[mine], g_before[mine] = w[mine].bfloat16(), 0
        assert torch.equal(rounded, rounded_before)
        assert torch.equal(g, g_before)


@pytest.mark.parametrize("wrong", range(4))
@pytest.mark.usefixtures("avx512_build")
def test_arrays_of_other_lengths_are_not_updated(wrong):
    arrays = [np.zeros(9, dtype) for dtype in (np.float32, np.float32, np.uint16, np.uint16)]
    avx512._sgd.sgd(*arrays, 0.9, 0.0, 0.1, 1)
    arrays[wrong] = arrays[wrong][:8]
    with pytest.raises(ValueError, match="not of one length"):
        avx512._sgd.sgd(*arrays, 0.9, 0.0, 0.1, 1)
