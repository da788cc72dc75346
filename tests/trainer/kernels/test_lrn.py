"""LRN, with a ReLU before it and pooling after it, against the paper's formula in NumPy, float64, as loops;
and the bits of the operations one after the other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from trainer import kernels
from trainer.kernels import avx512, lrn_pool_numba, reference

K, ALPHA, BETA, N = 2.0, 1e-4, 0.75, 5
SHAPES = [(2, 48, 55, 55), (3, 128, 27, 27), (2, 7, 8, 9), (1, 1, 3, 3)]


def lrn(x, n=N, k=K, alpha=ALPHA, beta=BETA, relu=False):
    return kernels.relu_lrn_pool(x, relu, None, n, k, alpha, beta)


def lrn_pool(x, window, n=N, k=K, alpha=ALPHA, beta=BETA, relu=False):
    return kernels.relu_lrn_pool(x, relu, window, n, k, alpha, beta)


def reference_lrn(x, n=N, k=K, alpha=ALPHA, beta=BETA, relu=False):
    return reference.relu_lrn_pool(x, relu, None, n, k, alpha, beta)


def formula(a_BCHW: np.ndarray, n: int, k: float, alpha: float, beta: float) -> np.ndarray:
    a = a_BCHW.astype(np.float64)
    b = np.empty_like(a)
    channels = a.shape[1]
    for i in range(channels):
        low, high = max(0, i - n // 2), min(channels - 1, i + n // 2)
        total = (a[:, low : high + 1] ** 2).sum(axis=1)
        b[:, i] = a[:, i] / (k + alpha * total) ** beta
    return b


def formula_pooled(a_BCHW: np.ndarray, window: int, relu: bool) -> np.ndarray:
    """The formula, and the maximum of each window, 2 pixels apart."""
    y = formula(np.maximum(a_BCHW, 0) if relu else a_BCHW, N, K, ALPHA, BETA)
    down, across = ((side - window) // 2 + 1 for side in y.shape[2:])
    return np.array(
        [
            [y[:, :, 2 * i : 2 * i + window, 2 * j : 2 * j + window].max(axis=(2, 3)) for j in range(across)]
            for i in range(down)
        ]
    ).transpose(2, 3, 0, 1)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 48, 128])
def test_equals_the_formula_up_to_the_edges_of_the_tower(channels):
    a = np.random.default_rng(channels).normal(scale=60, size=(3, channels, 7, 6)).astype(np.float32)
    ours = lrn(torch.from_numpy(a)).numpy()
    np.testing.assert_allclose(ours, formula(a, N, K, ALPHA, BETA), rtol=1e-6)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula_and_the_largest_of_each_window(shape, window, relu):
    a = np.random.default_rng(window).normal(scale=60, size=shape).astype(np.float32)
    ours = lrn_pool(torch.from_numpy(a), window, relu=relu).numpy()
    np.testing.assert_allclose(ours, formula_pooled(a, window, relu), rtol=1e-6)


@pytest.mark.parametrize(("n", "beta"), [(3, 0.75), (5, 0.5), (7, 1.0)])
def test_takes_other_windows_and_powers(n, beta):
    a = np.random.default_rng(n).normal(scale=5, size=(2, 9, 4, 4)).astype(np.float32)
    ours = lrn(torch.from_numpy(a), n, 1.5, 0.02, beta).numpy()
    np.testing.assert_allclose(ours, formula(a, n, 1.5, 0.02, beta), rtol=2e-6)


def test_alpha_is_the_papers_not_torchs():
    a = torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(0)) * 100
    torchs = torch.nn.functional.local_response_norm(a, 5, alpha=5 * ALPHA, beta=BETA, k=K)
    torch.testing.assert_close(lrn(a), torchs, rtol=2e-6, atol=0)


def formula_gradient(a_BCHW: np.ndarray, db_BCHW: np.ndarray) -> np.ndarray:
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


@pytest.mark.parametrize("form", [lrn, reference_lrn])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 48])
def test_gradient_equals_the_formulas_up_to_the_edges_of_the_tower(channels, form):
    rng = np.random.default_rng(channels)
    a, db = (rng.normal(scale=s, size=(2, channels, 5, 3)).astype(np.float32) for s in (60, 1))
    x = torch.from_numpy(a).requires_grad_()
    form(x).backward(torch.from_numpy(db))
    # Terms of both signs, each rounded to 6e-8 of at most about 1.
    np.testing.assert_allclose(x.grad.numpy(), formula_gradient(a, db), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [None, 2, 3])
@pytest.mark.parametrize("form", [kernels.relu_lrn_pool, reference.relu_lrn_pool])
def test_gradient_equals_finite_differences(form, window):
    x = torch.randn(1, 7, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert gradcheck(lambda t: form(t, False, window, 5, 2.0, 0.3, 0.75), x.requires_grad_())


def test_gradient_does_not_depend_on_the_memory_format():
    x = torch.randn(3, 48, 6, 5, generator=torch.Generator().manual_seed(2)) * 30
    dy = torch.randn_like(x)
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=layout).requires_grad_()
        lrn(leaf).backward(dy.contiguous(memory_format=layout))
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_bfloat16_is_float32_arithmetic_rounded_once():
    x = (torch.randn(4, 48, 9, 9, generator=torch.Generator().manual_seed(3)) * 50).bfloat16()
    assert torch.equal(lrn(x), lrn(x.float()).bfloat16())


def some_numbers(shape, dtype, seed=0):
    """Inputs, three of them special, and a generator for more."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=draw) * 50).to(dtype).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, :3] = torch.tensor([0.0, -0.0, float("nan")])
    return x, draw


@pytest.mark.parametrize("form", [lrn, reference_lrn])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 5, 48])
def test_with_relu_it_has_the_bits_of_torchs_relu_and_itself(channels, dtype, form):
    x, draw = some_numbers((3, channels, 9, 7), dtype, channels)
    dy = torch.randn(x.shape, generator=draw).to(dtype)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    together = form(leaves[0], relu=True)
    apart = form(torch.relu(leaves[1]))
    together.backward(dy)
    apart.backward(dy)
    torch.testing.assert_close(together, apart, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=0, equal_nan=True)


def apart(x: torch.Tensor, dy: torch.Tensor, window: int, relu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """y and dx of the operations one after the other; bfloat16 is rounded between them forward, and then only
    at the end."""
    wide = x.float().requires_grad_()
    normalised = lrn(wide, relu=relu)
    rounded = normalised.detach().to(x.dtype).float().requires_grad_()
    y = F.max_pool2d(rounded, window, 2)
    y.backward(dy.float())
    normalised.backward(rounded.grad)
    return y.to(x.dtype), wide.grad.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_has_the_bits_of_the_operations_apart_both_ways(shape, window, relu, dtype):
    x, draw = some_numbers(shape, dtype, window)
    leaf = x.clone().requires_grad_()
    together = lrn_pool(leaf, window, relu=relu)
    dy = torch.randn(together.shape, generator=draw).to(dtype)
    together.backward(dy)
    y, dx = apart(x, dy, window, relu)
    torch.testing.assert_close(together, y, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(leaf.grad, dx, rtol=0, atol=0, equal_nan=True)


# Of every number of registers, with and without constants; even sides too.
IN_REGISTERS = [
    (2, 48, 55, 55),
    (3, 128, 27, 27),
    (2, 16, 4, 7),
    (1, 32, 3, 3),
    (2, 80, 9, 6),
    (1, 512, 5, 4),
]


@pytest.mark.parametrize("numbers", ["large", "equal", "infinite", "tiny"])
@pytest.mark.parametrize("shape", IN_REGISTERS)
@pytest.mark.usefixtures("avx512_build")
def test_the_loops_in_c_have_the_bits_of_numbas(shape, numbers):
    x, draw = some_numbers(shape, torch.bfloat16)
    if numbers == "equal":
        x = x.sign() * 3  # whose gradient it is: the first of equals
    if numbers == "infinite":
        x[-1, 5] = float("inf")
    if numbers == "tiny":
        x *= 1e-30
    results = []
    for backend in (avx512, lrn_pool_numba):
        leaf = x.clone().requires_grad_()
        y = backend.relu_lrn_pool(leaf, True, 3, N, K, ALPHA, BETA)
        y.backward(torch.randn(y.shape, generator=draw.manual_seed(1)).bfloat16())
        results.append((y, leaf.grad))
    for in_c, in_numba in zip(*results, strict=True):
        torch.testing.assert_close(in_c, in_numba, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "change", ["x", "y", "position", "dx", "channels", "too many", "height", "images", "threads"]
)
@pytest.mark.usefixtures("avx512_build")
def test_arrays_of_another_layer_are_refused(change):
    shape, outputs = (2, 7, 8, 32), (2, 3, 3, 32)
    arrays = {"x": shape, "y": outputs, "position": outputs, "dx": shape}
    right = {name: np.zeros(of, np.uint8 if name == "position" else np.uint16) for name, of in arrays.items()}
    avx512._lrn_pool.backward(*right.values(), shape, K, ALPHA, 2)
    wrong = {"channels": (4, 7, 8, 8), "too many": (1, 7, 8, 1024), "height": (2, 2, 8, 32)}
    other = wrong.get(change, (0, 7, 8, 32) if change == "images" else shape)
    threads = 3 if change == "threads" else 1
    if change in arrays:
        right[change] = right[change][:1]
    with pytest.raises(ValueError, match="not those of such a layer"):
        avx512._lrn_pool.backward(*right.values(), other, K, ALPHA, threads)
    if change != "dx":
        del right["dx"]
        with pytest.raises(ValueError, match="not those of such a layer"):
            avx512._lrn_pool.forward(*right.values(), other, K, ALPHA, threads)


@pytest.mark.parametrize("relu", [False, True])
def test_a_number_that_is_not_finite_stays_visible(relu):
    x = torch.ones(1, 8, 1, 1)
    x[0, 3] = float("nan")
    assert lrn(x, relu=relu)[0, 1:6].isnan().all()


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("relu", [False, True])
def test_nan_stays_with_its_pixel_and_its_window_of_channels(window, relu):
    x = torch.ones(1, 12, 4, 8)
    x[0, 0, 0, 2] = float("nan")
    leaf = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = lrn_pool(leaf, window, relu=relu)
    y.sum().backward()
    assert y[0, :3].isnan().any(dim=(1, 2)).all()
    assert not y[0, 3:].isnan().any()
    gone = leaf.grad.isnan()
    assert gone[0, 0, 0, 2]
    gone[0, :5, 0, 2] = False  # the gradient reaches two windows far
    assert not gone.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_threads_have_the_bits_of_one(dtype):
    x = torch.randn(5, 48, 13, 13, generator=torch.Generator().manual_seed(4)).to(dtype) * 50
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 8):
        kernels.set_threads(threads)
        leaf = x.clone().requires_grad_()
        y = lrn_pool(leaf, 3, relu=True)
        y.backward(y.detach())
        results.append((y, leaf.grad))
    kernels.set_threads(before)
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("mode", ["auto", "reference"])
@pytest.mark.parametrize("n", [-3, -1, 0, 2])
def test_windows_that_lrn_and_pooling_do_not_have_are_refused(n, mode):
    kernels.use(mode)
    x = torch.ones(2, 16, 8, 8)
    for function in (lrn, lambda x, n: lrn_pool(x, 3, n)):
        with pytest.raises(ValueError, match=f"a window of {n} of 16 channels"):
            function(x, n)
    for window in (0, 1, 4):
        with pytest.raises(ValueError, match=f"2 or 3 pixels are pooled, not of {window}"):
            lrn_pool(x, window)
