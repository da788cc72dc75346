"""ReLU, normalisation and pooling in one loop: NumPy in float64, and the bits of the operations apart."""

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from trainer.config import NetworkConfig
from trainer.kernels import lrn_pool as lrn_pool_module
from trainer.kernels.lrn import local_response_norm
from trainer.kernels.lrn_pool import lrn_pool
from trainer.model.network import build_tower

K, ALPHA, BETA, N = 2.0, 1e-4, 0.75, 5
needs_wide = pytest.mark.skipif(
    lrn_pool_module._lrn_pool is None, reason="no AVX-512 BF16 here, or kernels/_lrn_pool.c is not built"
)
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


def apart(x: torch.Tensor, dy: torch.Tensor, size: int, relu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """y and dx of the operations one after the other; bfloat16 is rounded between them forward, and then only
    at the end."""
    wide = x.float().requires_grad_()
    normalised = local_response_norm(wide, N, K, ALPHA, BETA, relu)
    said = normalised.detach().to(x.dtype).float().requires_grad_()
    y = F.max_pool2d(said, size, 2)
    y.backward(dy.float())
    normalised.backward(said.grad)
    return y.to(x.dtype), wide.grad.to(x.dtype)


def some_numbers(shape, dtype, seed=0):
    """Inputs, three of them special, and a generator for more."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=draw) * 50).to(dtype).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, :3] = torch.tensor([0.0, -0.0, float("nan")])
    return x, draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_has_the_bits_of_the_operations_apart_both_ways(shape, size, relu, dtype):
    x, draw = some_numbers(shape, dtype, size)
    leaf = x.clone().requires_grad_()
    together = lrn_pool(leaf, size, N, K, ALPHA, BETA, relu)
    dy = torch.randn(together.shape, generator=draw).to(dtype)
    together.backward(dy)
    y, dx = apart(x, dy, size, relu)
    torch.testing.assert_close(together, y, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(leaf.grad, dx, rtol=0, atol=0, equal_nan=True)


# Of every number of registers, with and without constants; even sides too.
BY_HAND = [(2, 48, 55, 55), (3, 128, 27, 27), (2, 16, 4, 7), (1, 32, 3, 3), (2, 80, 9, 6), (1, 512, 5, 4)]


@pytest.mark.parametrize("numbers", ["large", "equal", "infinite", "tiny"])
@pytest.mark.parametrize("shape", BY_HAND)
@pytest.mark.processor
@needs_wide
def test_the_loops_by_hand_have_the_bits_of_the_compiled_ones(shape, numbers, monkeypatch):
    x, draw = some_numbers(shape, torch.bfloat16)
    if numbers == "equal":
        x = x.sign() * 3  # whose gradient it is: the first of equals
    if numbers == "infinite":
        x[-1, 5] = float("inf")
    if numbers == "tiny":
        x *= 1e-30
    results = []
    for module in (lrn_pool_module._lrn_pool, None):
        monkeypatch.setattr(lrn_pool_module, "_lrn_pool", module)
        leaf = x.clone().requires_grad_()
        y = lrn_pool(leaf, 3, N, K, ALPHA, BETA, relu=True)
        y.backward(torch.randn(y.shape, generator=draw.manual_seed(1)).bfloat16())
        results.append((y, leaf.grad))
    for by_hand, compiled in zip(*results, strict=True):
        torch.testing.assert_close(by_hand, compiled, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "change", ["x", "y", "which", "dx", "channels", "too many", "height", "images", "threads"]
)
@pytest.mark.processor
@needs_wide
def test_arrays_of_another_layer_are_refused(change):
    shape, outputs = (2, 7, 8, 32), (2, 3, 3, 32)
    arrays = {"x": shape, "y": outputs, "which": outputs, "dx": shape}
    right = {name: np.zeros(of, np.uint8 if name == "which" else np.uint16) for name, of in arrays.items()}
    lrn_pool_module._lrn_pool.backward(*right.values(), shape, K, ALPHA, 2)
    wrong = {"channels": (4, 7, 8, 8), "too many": (1, 7, 8, 1024), "height": (2, 2, 8, 32)}
    other = wrong.get(change, (0, 7, 8, 32) if change == "images" else shape)
    threads = 3 if change == "threads" else 1
    if change in arrays:
        right[change] = right[change][:1]
    with pytest.raises(ValueError, match="not those of such a layer"):
        lrn_pool_module._lrn_pool.backward(*right.values(), other, K, ALPHA, threads)
    if change != "dx":
        del right["dx"]
        with pytest.raises(ValueError, match="not those of such a layer"):
            lrn_pool_module._lrn_pool.forward(*right.values(), other, K, ALPHA, threads)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_threads_have_the_bits_of_one(dtype, monkeypatch):
    x = torch.randn(5, 48, 13, 13, generator=torch.Generator().manual_seed(4)).to(dtype) * 50
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS), 8):
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        leaf = x.clone().requires_grad_()
        said = lrn_pool(leaf, 3, relu=True)
        said.backward(said.detach())
        numba.set_num_threads(before)
        results.append((said, leaf.grad))
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("order", ["relu-lrn-pool", "lrn-pool-relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("filters", [(6, 8, 12, 12, 8), (32, 32, 32, 32, 32)])
def test_a_tower_that_is_watched_has_the_bits_of_one_that_is_not(order, dtype, filters):
    settings = NetworkConfig(filters=filters, hidden=32, conv1_order=order)
    draw = torch.Generator().manual_seed(5)
    images = torch.randn(3, 3, 224, 224, generator=draw)
    both = torch.randn(3, 2 * filters[1], 13, 13, generator=draw).to(dtype)
    results, shown = [], []
    for watch in (None, lambda layer, said: shown.append((layer, said.min() >= 0))):
        tower = build_tower(settings, 10, "a", seed=0).to(dtype)
        tower.watch = watch
        for stage, x in enumerate((images, both)):
            said = tower.stage(stage, x)
            said.backward(said.detach())
            results.append(said)
        results += [p.grad for name, p in tower.named_parameters() if name.startswith("conv")]
    assert shown == [(f"conv{i}", True) for i in range(1, 6)]
    half = len(results) // 2
    assert half == 12
    assert all(map(torch.equal, results[:half], results[half:]))
