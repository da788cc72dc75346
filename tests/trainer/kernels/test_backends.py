"""Every backend of the table against the reference in float64, both ways: one test for all.

Tolerances: a result is rounded once to its dtype, half a unit of the last place (2^-8 of the number in
bfloat16, 2^-24 in float32); before, float32 arithmetic errs by 1e-6 of the sum of the terms' sizes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.kernels import stand_in
from trainer import kernels
from trainer.kernels import amx, avx512, reference
from trainer.kernels.table import TABLE, Backend

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
HALF_UNIT = {BFLOAT16: 2**-8, FLOAT32: 2**-24}
DTYPES = (FLOAT32, BFLOAT16)
THREADS = (1, 3)


@dataclass(frozen=True, eq=False)
class Case:
    """Arguments of an operation; those that require a gradient are differentiated."""

    operation: str
    shapes: str
    """Cases of the same shapes are one test."""
    name: str
    arguments: tuple[Any, ...]


def numbers(*shape: int, dtype: torch.dtype = FLOAT32, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(scale).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def convolutions():
    # images, height, width, channels, filters, pixels along a filter, pad
    layers = {
        "odd sizes": (3, 9, 7, 48, 16, 3, 1),
        "one image": (1, 6, 6, 16, 48, 5, 2),
        "one pixel": (2, 1, 1, 16, 32, 3, 1),
        "filters of one pixel": (3, 4, 7, 32, 16, 1, 0),
        "more images than are multiplied together": (21, 13, 13, 64, 16, 3, 1),
        "channels for no tile": (2, 5, 6, 20, 16, 3, 1),
        "filters for no tile": (2, 5, 6, 16, 20, 3, 1),
    }
    for name, (B, H, W, C, O, k, pad) in layers.items():  # noqa: E741
        for dtype in DTYPES:
            for relu in (False, True):
                leaves = (
                    numbers(B, C, H, W, dtype=dtype),
                    numbers(O, C, k, k, dtype=dtype, seed=1),
                    numbers(O, dtype=dtype, seed=2),
                )
                arguments = (*(x.requires_grad_() for x in leaves), pad, relu)
                yield Case("conv2d", name, f"{dtype}, relu={relu}", arguments)


def first_convolutions():
    for name, shape, filters in (
        ("odd blocks", (3, 3, 20, 28), 16),
        ("one image, filters for no tile", (1, 3, 16, 16), 6),
        ("no blocks", (2, 3, 21, 18), 16),
    ):
        for of_images in DTYPES:
            for dtype in DTYPES:
                x = numbers(*shape, scale=60).bfloat16().to(of_images)  # numbers that both dtypes hold
                weight, bias = numbers(filters, 3, 11, 11, dtype=dtype), numbers(filters, dtype=dtype)
                arguments = x, weight.requires_grad_(), bias.requires_grad_(), 3
                yield Case("conv1", name, f"images {of_images}, {dtype}", arguments)


def normalisations():
    # images, channels, height, width
    shapes = {
        "odd sizes": (3, 48, 9, 7),
        "even sizes": (2, 16, 8, 6),
        "one image": (1, 128, 5, 5),
        "one window": (2, 32, 3, 3),
        "other channels": (2, 7, 8, 9),
        "one channel": (2, 1, 5, 4),
    }
    for name, shape in shapes.items():
        for dtype in DTYPES:
            for relu in (False, True):
                for window in (None, 2, 3):
                    for n, beta in ((5, 0.75), (3, 0.5)):
                        x = numbers(*shape, dtype=dtype, scale=60).requires_grad_()
                        where = f"{dtype}, relu={relu}, window={window}, n={n}"
                        yield Case("relu_lrn_pool", name, where, (x, relu, window, n, 2.0, 1e-4, beta))
    for dtype in DTYPES:
        x = numbers(2, 16, 7, 7, dtype=dtype, scale=60)
        x[0, 3, 2, 2], x[1, 0, 0, 0] = float("nan"), float("-inf")
        yield Case("relu_lrn_pool", "NaN", f"{dtype}", (x.requires_grad_(), True, 3, 5, 2.0, 1e-4, 0.75))


def products():
    for name, (B, inputs, outputs) in {
        "odd sizes": (5, 37, 11),
        "one image": (1, 64, 16),
        "wide": (3, 2048, 48),
    }.items():
        for dtype in DTYPES:
            for bias in (True, False):
                x, weight = numbers(B, inputs, dtype=dtype), numbers(outputs, inputs, dtype=dtype, seed=1)
                leaves = [x, weight, numbers(outputs, dtype=dtype, seed=2)][: 3 if bias else 2]
                for leaf in leaves:
                    leaf.requires_grad_().grad = torch.zeros_like(leaf)
                yield Case("linear", name, f"{dtype}, bias={bias}", (*leaves, None)[:3])


def crops():
    draw = np.random.default_rng(0)
    for B, side in ((5, 256), (1, 224), (3, 229)):
        images = torch.from_numpy(draw.integers(0, 256, (B, side, side, 3), dtype=np.uint8))
        mean = draw.uniform(90, 130, (side, side, 3)).astype(np.float32)
        means = torch.from_numpy(np.stack([mean, mean[:, ::-1]]))
        top, left = draw.integers(0, side - kernels.CROP, (2, B), endpoint=True)
        flip, shift = draw.random(B) < 0.5, draw.normal(0, 20, (B, 3)).astype(np.float32)
        plain = np.full((B, 2), kernels.CROP)
        resized = np.minimum(draw.integers(1, side, (B, 2), endpoint=True), side - np.stack([top, left], 1))
        resized[::3] = kernels.CROP
        for rotation, sides in ((0.0, plain), (20.0, plain), (0.0, resized), (20.0, resized)):
            angle = draw.uniform(-rotation, rotation, B).astype(np.float32)
            angle[::2] = 0
            for centered in (False, True):
                for scale in (1.0, float(np.float32(1 / 60))):
                    where = top, left, sides, flip, shift, angle
                    how = "resized" if sides is resized else "cut"
                    name = f"{how}, rotation={rotation}, centered={centered}, scale={scale:.2g}"
                    arguments = images, means, *where, scale, centered, kernels.CROP, None
                    yield Case("crop", f"{B} of {side}", name, arguments)


def updates():
    for N in (1, 31, 1500):
        for dtype in DTYPES:
            for rounded in (None, torch.zeros(N, dtype=BFLOAT16)):
                w, v, g = (numbers(N, seed=seed) for seed in range(3))
                name = f"gradients {dtype}, rounded={rounded is not None}"
                yield Case("sgd_", f"{N}", name, (w, v, g.to(dtype), rounded, 0.9, 0.01, 0.1))


def sums():
    for R, N in ((1, 1), (3, 3000)):
        for dtype in DTYPES:
            arguments = numbers(N, dtype=dtype), numbers(R, N, dtype=dtype, seed=1)
            yield Case("sum_rows_", f"{R} x {N}", f"{dtype}", arguments)


def draws():
    for positions in ([0], [0, 1, 127, 2**40 + 3]):
        arguments = 7, kernels.Purpose.DROPOUT, (12, 5), torch.tensor(positions), torch.arange(2049)
        yield Case("uniform", f"{len(positions)} positions", "", arguments)


GENERATORS = (convolutions, first_convolutions, normalisations, products, crops, updates, sums, draws)
CASES = [case for generator in GENERATORS for case in generator()]


def on_gpu(argument: Any) -> Any:
    """A tensor as the predicates see it on a GPU, where there may be none."""
    if not isinstance(argument, torch.Tensor):
        return argument
    device = SimpleNamespace(type="cuda")
    return SimpleNamespace(device=device, dtype=argument.dtype, shape=argument.shape)


def fits(backend: Backend, case: Case) -> bool:
    arguments = map(on_gpu, case.arguments) if backend.name == "triton" else case.arguments
    return backend.fits(*arguments)


def pairs():
    """Backends, how they are built, and the cases of the same shapes that they fit."""
    for operation, backends in TABLE.items():
        for backend in backends[:-1]:
            groups = {}
            for case in CASES:
                if case.operation == operation and fits(backend, case):
                    groups.setdefault(case.shapes, []).append(case)
            for build in ("", " in plain C") if backend.needs.modules else ("",):
                missing = not build and not backend.needs.available
                why = f"{operation}: {backend.name} needs {backend.needs.words}"
                marks = [pytest.mark.processor, pytest.mark.skip(reason=why)] if missing else []
                for shapes, cases in list(groups.items())[: 1 if missing else None]:
                    name = f"{operation} {backend.name}{build}: {shapes}"
                    yield pytest.param(backend, build, cases, marks=marks, id=name)


PAIRS = list(pairs())


@pytest.mark.parametrize("operation", TABLE)
def test_every_backend_fits_a_case_and_the_last_one_is_the_reference(operation):
    *others, last = TABLE[operation]
    assert last.name == "torch"
    assert last.run is getattr(reference, operation)
    fitted = {
        backend.name for backend, _, cases in (p.values for p in PAIRS) if cases[0].operation == operation
    }
    assert fitted == {backend.name for backend in others}


def changed(arguments: tuple[Any, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, ...]:
    """Copies of the arguments, the floating-point tensors among them changed, as leaves of a new graph."""
    found = []
    for x in arguments:
        if isinstance(x, torch.Tensor):
            old, x = x, change(x.detach().clone()) if x.is_floating_point() else x.clone()
            x.requires_grad_(old.requires_grad)
            x.grad = None if old.grad is None else torch.zeros_like(x)
        found.append(x)
    return tuple(found)


def results(
    run: Callable[..., Any], arguments: tuple[Any, ...], dy: torch.Tensor | None
) -> list[torch.Tensor]:
    """Output and gradients; or the arguments themselves, where the operation works in place."""
    y = run(*arguments)
    if y is None:
        return [x for x in arguments if isinstance(x, torch.Tensor)]
    if dy is not None:
        y.backward(dy)
    return [y.detach(), *(x.grad for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad)]


def output_gradient(case: Case, y: torch.Tensor) -> torch.Tensor | None:
    """Random, but 0 where rounding decides which way the gradient goes."""
    if not y.requires_grad:
        return None
    (*_, dtype) = (x.dtype for x in case.arguments if isinstance(x, torch.Tensor))  # the weights'
    dy = numbers(*y.shape, dtype=dtype, seed=3)
    wide = changed(case.arguments, torch.Tensor.double)
    if case.operation == "conv2d" and case.arguments[-1]:  # the ReLU of nearly 0
        before = reference.conv2d(*wide[:-1], relu=False)
        sizes = reference.conv2d(*changed(wide[:3], torch.Tensor.abs), wide[3], relu=False)
        dy[before.abs() <= 1e-6 * sizes] = 0
    if case.operation == "relu_lrn_pool" and (window := case.arguments[2]):  # nearly equal numbers
        x, relu, _, *constants = wide
        windows = reference.relu_lrn_pool(x, relu, None, *constants).unfold(2, window, 2).unfold(3, window, 2)
        first, second = windows.flatten(4).topk(2).values.unbind(-1)
        dy[(first - second).abs() <= 2**-6 * first.abs()] = 0
    return dy


def allowances(case: Case, exact: list[torch.Tensor], dy: torch.Tensor | None) -> list[torch.Tensor | float]:
    """For each result the sum of its terms' sizes, of which float32 arithmetic errs by 1e-6."""
    if case.operation in ("conv1", "conv2d", "linear"):
        arguments = changed(case.arguments, lambda x: x.double().abs())
        arguments = (*arguments[:-1], False) if case.operation == "conv2d" else arguments
        return results(getattr(reference, case.operation), arguments, dy.double().abs())
    if case.operation == "relu_lrn_pool":  # products alone; ten terms of both signs, each about 1 at most
        return [exact[0].abs(), 10 * exact[1].abs() + 1]
    if case.operation == "crop":  # sums of up to six numbers below 512, whose float32 steps are 3e-5
        return [6 * 30 * case.arguments[-4]]
    if case.operation == "sgd_":  # numbers below about 4; gradients are left at exactly 0
        return [1.0, 1.0, 0.0, 1.0][: len(exact)]
    if case.operation == "sum_rows_":
        total, rows = (x.double().abs() for x in case.arguments)
        return [total + rows.sum(0), 0.0]
    return [0.0]


@functools.cache
def expected(case: Case) -> tuple[list[torch.Tensor], list[torch.Tensor | float], torch.Tensor | None]:
    """The reference's results in float64, the sizes of their terms, and the output's gradient."""
    right = TABLE[case.operation][-1].run
    y = right(*changed(case.arguments, torch.Tensor.double))
    dy = output_gradient(case, y) if y is not None else None
    exact = results(right, changed(case.arguments, torch.Tensor.double), None if dy is None else dy.double())
    return exact, allowances(case, exact, dy), dy


def check(backend: Backend, case: Case, threads: int) -> None:
    device = "cuda" if backend.name == "triton" else "cpu"
    exact, sizes, dy = expected(case)
    arguments = tuple(
        x.to(device) if isinstance(x, torch.Tensor) else x for x in changed(case.arguments, lambda x: x)
    )
    found = results(backend.run, arguments, None if dy is None else dy.to(device))
    assert len(found) == len(exact)
    for got, right, size in zip(found, exact, sizes, strict=True):
        got = got.cpu()
        assert got.shape == right.shape
        allowed = right.abs() * HALF_UNIT[got.dtype] + 1e-6 * size
        same = got.double() == right  # infinities
        close = same | ((got.double() - right).abs() <= allowed) | (got.isnan() & right.isnan())
        off = ((got - right).abs() / allowed).nan_to_num().max()
        assert close.all(), f"{case.name}, {threads} threads: off by {off:.3g} times what is allowed"


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield kernels.set_threads
    kernels.set_threads(before)


@pytest.mark.parametrize(("backend", "build", "cases"), PAIRS)
def test_a_backend_computes_what_the_reference_does(
    backend, build, cases, set_threads, in_plain_c, monkeypatch
):
    if build:
        stand_in.take({"amx": amx, "avx512": avx512}[backend.name], in_plain_c, monkeypatch)
    for threads in THREADS:
        set_threads(threads)
        for case in cases:
            check(backend, case, threads)
