"""The one table of which backend computes an operation, and the choice among them.

A backend is one implementation of an operation of the door, `trainer.kernels`. Of an operation's backends the
first one is taken that this machine has and that fits the arguments. The last one is always the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.kernels import (
    amx,
    avx512,
    counter_rng,
    crop_numba,
    cuda,
    flat_numba,
    linear_accumulate,
    lrn_pool_numba,
    reference,
    space_to_depth,
)

Mode = Literal["auto", "reference"]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What a backend needs of the machine."""

    words: str
    available: bool
    cpu_flag: str = ""
    """The instruction set's name in /proc/cpuinfo."""
    modules: tuple[str, ...] = ()
    """Modules in C that must have been compiled."""


TORCH = Requirement(words="torch", available=True)
NUMBA = Requirement(words="Numba", available=True)
AMX = Requirement(
    words="a CPU with AMX",
    available=amx.AVAILABLE,
    cpu_flag="amx_bf16",
    modules=("trainer.kernels._convolve", "trainer.kernels._weight_gradient"),
)
AVX512 = Requirement(
    words="a CPU with AVX-512 BF16",
    available=avx512.AVAILABLE,
    cpu_flag="avx512_bf16",
    modules=("trainer.kernels._lrn_pool", "trainer.kernels._sgd"),
)
TRITON = Requirement(words="an NVIDIA GPU, and Triton", available=cuda.AVAILABLE)


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation."""

    name: str
    needs: Requirement
    fits: Callable[..., bool]
    """Whether it takes these arguments, which are the operation's. Compares attributes and constants only,
    for torch.compile follows it."""
    run: Callable[..., Any]
    """Computes the operation; differentiable where the operation is."""
    compiles: bool = True
    """Whether it may be part of a stage that torch.compile compiles."""


def _always(*arguments: Any) -> bool:
    return True


def _reference(run: Callable[..., Any]) -> Backend:
    return Backend("torch", TORCH, _always, run)


def _conv1_over_blocks(x_B3HW: Tensor, weight_O3kk: Tensor, bias_O: Tensor | None, pad: int) -> Tensor:
    blocks, weights = space_to_depth.of_images(x_B3HW), space_to_depth.of_weights(weight_O3kk)
    y: Tensor = run("conv2d", blocks, weights, bias_O, 0, False)
    return y


TABLE: dict[str, tuple[Backend, ...]] = {
    "conv1": (
        Backend("space-to-depth", NUMBA, space_to_depth.fits, _conv1_over_blocks),
        _reference(reference.conv1),
    ),
    "conv2d": (
        Backend("amx", AMX, amx.fits, amx.conv2d, compiles=False),
        _reference(reference.conv2d),
    ),
    "relu_lrn_pool": (
        Backend("avx512", AVX512, avx512.lrn_fits, avx512.relu_lrn_pool),
        Backend("numba", NUMBA, lrn_pool_numba.fits, lrn_pool_numba.relu_lrn_pool),
        Backend("triton", TRITON, cuda.lrn_fits, cuda.relu_lrn_pool),
        _reference(reference.relu_lrn_pool),
    ),
    "linear": (
        Backend("accumulate", TORCH, linear_accumulate.fits, linear_accumulate.linear, compiles=False),
        _reference(reference.linear),
    ),
    "crop": (
        Backend("numba", NUMBA, crop_numba.fits, crop_numba.crop),
        _reference(reference.crop),
    ),
    "sgd_": (
        Backend("avx512", AVX512, avx512.sgd_fits, avx512.sgd_),
        Backend("numba", NUMBA, flat_numba.sgd_fits, flat_numba.sgd_),
        Backend("triton", TRITON, cuda.sgd_fits, cuda.sgd_),
        _reference(reference.sgd_),
    ),
    "sum_rows_": (
        Backend("numba", NUMBA, flat_numba.sum_rows_fits, flat_numba.sum_rows_),
        _reference(reference.sum_rows_),
    ),
    "uniform": (
        Backend("numba", NUMBA, counter_rng.fits, counter_rng.uniform),
        _reference(reference.uniform),
    ),
}

_mode: Mode = "auto"


def use(mode: Mode) -> None:
    """Choose for this process: "auto" takes the first backend that fits, "reference" plain torch for all."""
    global _mode
    _mode = mode


def leave_out(operation: str, backend: str) -> None:
    """Take a backend out of the table of this process: it failed its trial (self_check.py)."""
    TABLE[operation] = tuple(found for found in TABLE[operation] if found.name != backend)


def choose(operation: str, arguments: tuple[Any, ...], compiled: bool) -> Backend:
    """The backend that the operation takes for these arguments; `compiled`: within a compiled stage."""
    *others, last = TABLE[operation]
    for backend in others:
        if (
            _mode == "auto"
            and backend.needs.available
            and (backend.compiles or not compiled)
            and backend.fits(*arguments)
        ):
            return backend
    return last


def chosen(calls: Iterable[tuple[str, str, tuple[Any, ...]]], compiled: bool = False) -> str:
    """One line: the backend that each operation takes. Nothing is computed.

    calls: where an operation is used (such as a layer's name), its name, and arguments of the dtypes, devices
    and channels that it will have. compiled: the layers are part of compiled stages.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for where, operation, arguments in calls:
        backend = choose(operation, arguments, compiled)
        found.setdefault(operation.rstrip("_"), {}).setdefault(backend.name, []).append(where)
    parts = []
    for operation, backends in found.items():
        names = list(backends)
        if len(backends) > 1:
            names = [f"{name} ({' '.join(places)})" for name, places in backends.items()]
        parts.append(f"{operation} {' '.join(names)}")
    return f"kernels: {', '.join(parts)}"


def run(operation: str, *arguments: Any) -> Any:
    """Compute an operation by the backend that it takes."""
    return choose(operation, arguments, torch.compiler.is_compiling()).run(*arguments)
