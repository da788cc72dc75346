"""Command lines from dataclasses: one flag a field, its docstring the help."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import tyro
from mpi4py import MPI

from trainer import config as configuration

T = TypeVar("T")


def parse(kind: type[T], program: str, default: T, argv: Sequence[str] | None = None) -> T:
    """Read the command line into `kind`; what is not given keeps the value in `default`.

    Under mpirun only rank 0 prints help and complaints; any other rank is silent and leaves as rank 0 does.
    """
    with contextlib.ExitStack() as stack:
        if MPI.COMM_WORLD.rank != 0:
            nothing = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
            stack.enter_context(contextlib.redirect_stdout(nothing))
            stack.enter_context(contextlib.redirect_stderr(nothing))
        return tyro.cli(
            kind,
            prog=program,
            args=list(sys.argv[1:] if argv is None else argv),
            default=default,
            config=(tyro.conf.OmitArgPrefixes,),
        )


def parse_config(argv: Sequence[str] | None = None) -> configuration.Config:
    """The training command's flags, on top of the recipe that they name."""
    args = list(sys.argv[1:] if argv is None else argv)
    recipe = "auto"
    for flag, value in pairwise([*args, ""]):
        if flag == "--recipe":
            recipe = value
        elif flag.startswith("--recipe="):
            recipe = flag.removeprefix("--recipe=")
    default = configuration.RECIPES.get(recipe, configuration.AUTO)
    return parse(configuration.Config, "python -m trainer.run", default, args)
