"""ReLU, normalisation and pooling in one loop: NumPy in float64, and the bits of the operations apart."""

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from trainer.config import Network as Settings
from trainer.lrn import local_response_norm
from trainer.lrn_pool import lrn_pool
from trainer.model import build_tower

K, ALPHA, BETA, N = 2.0, 1e-4, 0.75, 5
SHAPES = [(2, 48, 55, 55), (3, 128, 27, 27), (2, 7, 8, 9), (1, 1, 3, 3)]


def by_hand(a_BCHW: np.ndarray, size: int, relu: bool) -> np.ndarray:
    """The paper's formula and the largest of each window, as loops."""
    a = np.maximum(a_BCHW.astype(np.float64), 0) if relu else a_BCHW.astype(np.float64)
    channels = a.shape[1]
    said = np.empty_like(a)
    for i in range(channels):
        window = a[:, max(0, i - N // 2) : i + N // 2 + 1]
        said[:, i] = a[:, i] / (K + ALPHA * (window**2).sum(axis=1)) ** BETA
    down, across = ((side - size) // 2 + 1 for side in a.shape[2:])
    return np.array(
        [
            [said[:, :, 2 * y : 2 * y + size, 2 * x : 2 * x + size].max(axis=(2, 3)) for x in range(across)]
            for y in range(down)
        ]
    ).transpose(2, 3, 0, 1)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape, size, relu):
    a = np.random.default_rng(size).normal(scale=60, size=shape).astype(np.float32)
    ours = lrn_pool(torch.from_numpy(a), size, N, K, ALPHA, BETA, relu).numpy()
    np.testing.assert_allclose(ours, by_hand(a, size, relu), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_has_the_bits_of_the_operations_apart_both_ways(shape, size, relu, dtype):
    draw = torch.Generator().manual_seed(size)
    x = (torch.randn(shape, generator=draw) * 50).to(dtype).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, :3] = torch.tensor([0.0, -0.0, float("nan")])
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    together = lrn_pool(leaves[0], size, N, K, ALPHA, BETA, relu)
    normalised = local_response_norm(leaves[1], N, K, ALPHA, BETA, relu)
    apart = F.max_pool2d(normalised, size, 2)
    dy = torch.randn(apart.shape, generator=draw).to(dtype)
    together.backward(dy)
    apart.backward(dy)
    torch.testing.assert_close(together, apart, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [2, 3])
def test_gradient_equals_finite_differences(size):
    x = torch.randn(2, 7, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert gradcheck(lambda t: lrn_pool(t, size, 5, 2.0, 0.3, 0.75), x.requires_grad_())


@pytest.mark.parametrize("form", [lrn_pool, lambda x, size, relu: local_response_norm(x, relu=relu)])
@pytest.mark.parametrize("relu", [False, True])
def test_what_is_not_a_number_stays_with_its_pixel_and_its_window_of_channels(form, relu):
    x = torch.ones(1, 12, 4, 8)
    x[0, 0, 0, 2] = float("nan")
    leaf = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    said = form(leaf, size=2, relu=relu)
    said.sum().backward()
    assert said[0, :3].isnan().any(dim=(1, 2)).all()
    assert not said[0, 3:].isnan().any()
    gone = leaf.grad.isnan()
    assert gone[0, 0, 0, 2]
    gone[0, :5, 0, 2] = False  # the gradient reaches two windows far
    assert not gone.any()


def test_several_threads_have_the_bits_of_one():
    x = torch.randn(5, 48, 13, 13, generator=torch.Generator().manual_seed(4)) * 50
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        said = lrn_pool(leaf, 3, relu=True)
        said.backward(said.detach())
        numba.set_num_threads(before)
        results.append((said, leaf.grad))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("order", ["relu-lrn-pool", "lrn-pool-relu"])
def test_a_tower_that_is_watched_has_the_bits_of_one_that_is_not(order):
    settings = Settings(filters=(6, 8, 12, 12, 8), hidden=32, conv1_order=order)
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    results = []
    for watch in (None, lambda layer, said: None):
        tower = build_tower(settings, 10, "a", seed=0)
        tower.watch = watch
        said = tower.stage(0, images)
        said.backward(said.detach())
        results.append((said, tower.conv1.weight.grad, tower.conv2.bias.grad))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
