"""Custom ops: functions that are opaque to torch.compile, a single call in its graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def custom_op(fake: Callable[..., R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function of tensors and numbers a custom operator within compiled stages.

    Outside of them the function is called directly, at no cost. `fake` takes the same arguments and returns
    empty tensors of the results' shapes, dtypes and memory formats.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        name = f"{function.__module__.rpartition('.')[2]}_{function.__name__.strip('_')}"
        operator = torch.library.custom_op(f"trainer::{name}", function, mutates_args=())
        operator.register_fake(fake)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_compiling():
                result: R = operator(*args, **kwargs)
                return result
            return function(*args, **kwargs)

        return call

    return wrap
