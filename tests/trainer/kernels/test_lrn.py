"""Local response normalisation against the paper's formula in NumPy, float64, written as loops."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from trainer.kernels.lrn import local_response_norm, sliced, spatial
from trainer.kernels.lrn_pool import lrn_pool

K, ALPHA, BETA, N = 2.0, 1e-4, 0.75, 5


def by_hand(a_BCHW: np.ndarray, n: int, k: float, alpha: float, beta: float) -> np.ndarray:
    a = a_BCHW.astype(np.float64)
    b = np.empty_like(a)
    channels = a.shape[1]
    for i in range(channels):
        low, high = max(0, i - n // 2), min(channels - 1, i + n // 2)
        total = (a[:, low : high + 1] ** 2).sum(axis=1)
        b[:, i] = a[:, i] / (k + alpha * total) ** beta
    return b


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 48, 128])
def test_equals_the_formula_up_to_the_edges_of_the_tower(channels):
    a = np.random.default_rng(channels).normal(scale=60, size=(3, channels, 7, 6)).astype(np.float32)
    ours = local_response_norm(torch.from_numpy(a), N, K, ALPHA, BETA).numpy()
    np.testing.assert_allclose(ours, by_hand(a, N, K, ALPHA, BETA), rtol=1e-6)


@pytest.mark.parametrize(("n", "beta"), [(3, 0.75), (5, 0.5), (7, 1.0)])
def test_takes_other_windows_and_powers(n, beta):
    a = np.random.default_rng(n).normal(scale=5, size=(2, 9, 4, 4)).astype(np.float32)
    ours = local_response_norm(torch.from_numpy(a), n, 1.5, 0.02, beta).numpy()
    np.testing.assert_allclose(ours, by_hand(a, n, 1.5, 0.02, beta), rtol=2e-6)


def test_alpha_is_the_papers_not_torchs():
    a = torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(0)) * 100
    torchs = torch.nn.functional.local_response_norm(a, 5, alpha=5 * ALPHA, beta=BETA, k=K)
    torch.testing.assert_close(local_response_norm(a, N, K, ALPHA, BETA), torchs, rtol=2e-6, atol=0)


def gradient_by_hand(a_BCHW: np.ndarray, db_BCHW: np.ndarray) -> np.ndarray:
    """db_i/da_j is d_i^-beta if i = j, less 2 alpha beta a_i a_j d_i^(-beta - 1) if i's window holds j."""
    a, db = a_BCHW.astype(np.float64), db_BCHW.astype(np.float64)
    da, channels = np.zeros_like(a), a.shape[1]
    for i in range(channels):
        window = range(max(0, i - N // 2), min(channels - 1, i + N // 2) + 1)
        d = K + ALPHA * sum(a[:, j] ** 2 for j in window)
        da[:, i] += db[:, i] * d**-BETA
        for j in window:
            da[:, j] -= 2 * ALPHA * BETA * db[:, i] * a[:, i] * a[:, j] * d ** (-BETA - 1)
    return da


@pytest.mark.parametrize("form", [local_response_norm, sliced])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 48])
def test_gradient_equals_the_formulas_up_to_the_edges_of_the_tower(channels, form):
    rng = np.random.default_rng(channels)
    a, db = (rng.normal(scale=s, size=(2, channels, 5, 3)).astype(np.float32) for s in (60, 1))
    x = torch.from_numpy(a).requires_grad_()
    form(x, N, K, ALPHA, BETA).backward(torch.from_numpy(db))
    # Terms of both signs, each rounded to 6e-8 of at most about 1.
    np.testing.assert_allclose(x.grad.numpy(), gradient_by_hand(a, db), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [local_response_norm, sliced, spatial])
def test_gradient_equals_finite_differences(form):
    x = torch.randn(2, 7, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert gradcheck(lambda t: form(t, 5, 2.0, 0.3, 0.75), x.requires_grad_())


def test_gradient_does_not_depend_on_the_memory_format():
    x = torch.randn(3, 48, 6, 5, generator=torch.Generator().manual_seed(2)) * 30
    dy = torch.randn_like(x)
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=layout).requires_grad_()
        local_response_norm(leaf, N, K, ALPHA, BETA).backward(dy.contiguous(memory_format=layout))
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_bfloat16_is_float32_arithmetic_rounded_once():
    x = (torch.randn(4, 48, 9, 9, generator=torch.Generator().manual_seed(3)) * 50).bfloat16()
    ours = local_response_norm(x, N, K, ALPHA, BETA)
    exact = local_response_norm(x.float(), N, K, ALPHA, BETA)
    assert torch.equal(ours, exact.bfloat16())


@pytest.mark.parametrize("form", [local_response_norm, sliced])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 5, 48])
def test_with_relu_it_has_the_bits_of_torchs_relu_and_itself(channels, dtype, form):
    draw = torch.Generator().manual_seed(channels)
    x, dy = (torch.randn(3, channels, 9, 7, generator=draw).to(dtype) * scale for scale in (50, 1))
    x[0, 0, 0, :3] = torch.tensor([0.0, -0.0, float("nan")])
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    together = form(leaves[0], N, K, ALPHA, BETA, relu=True)
    apart = form(torch.relu(leaves[1]), N, K, ALPHA, BETA)
    together.backward(dy)
    apart.backward(dy)
    torch.testing.assert_close(together, apart, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("relu", [False, True])
def test_a_number_that_is_not_finite_stays_visible(relu):
    x = torch.ones(1, 8, 1, 1)
    x[0, 3] = float("nan")
    assert local_response_norm(x, relu=relu)[0, 1:6].isnan().all()


def test_spatial_window_sums_one_map_and_zeros_beyond_its_border():
    a = np.random.default_rng(4).normal(scale=40, size=(1, 2, 6, 6))
    ours = spatial(torch.from_numpy(a), 5, 2.0, 0.001 / 25, 0.75).numpy()
    for y in range(6):
        for x in range(6):
            window = a[0, 1, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            expected = a[0, 1, y, x] / (2 + 0.001 / 25 * (window**2).sum()) ** 0.75
            assert ours[0, 1, y, x] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [-3, -1, 0, 2])
def test_a_window_that_the_loops_would_leave_their_arrays_for_is_refused(n):
    x = torch.ones(2, 16, 8, 8)
    for function in (local_response_norm, lambda x, n: lrn_pool(x, 3, n)):
        with pytest.raises(ValueError, match=f"a window of {n} of 16 channels"):
            function(x, n)
    for size in (0, 1, 4):
        with pytest.raises(ValueError, match=f"2 or 3 pixels are pooled, not of {size}"):
            lrn_pool(x, size)
