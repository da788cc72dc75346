"""Functions that torch.compile calls as they are: compiled loops, and kernels that are written already."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def like(x: Tensor, *rest: object) -> Tensor:
    """Shapes of a function whose result is like its first tensor."""
    return torch.empty_like(x)


def opaque(shapes: Callable[..., R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function of tensors and numbers an operator of its own where stages are compiled; anywhere else
    it is called as ever, at no cost.

    `shapes` returns empty tensors like the function's results: their shapes, dtypes and memory formats.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        name = f"{function.__module__.rpartition('.')[2]}_{function.__name__.strip('_')}"
        operator = torch.library.custom_op(f"trainer::{name}", function, mutates_args=())
        operator.register_fake(shapes)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_compiling():
                said: R = operator(*args, **kwargs)
                return said
            return function(*args, **kwargs)

        return call

    return wrap
