"""Command lines from dataclasses: one flag a field, its docstring the help."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import tyro

from trainer.config import Config, with_changes
from trainer.recipes import AUTO, RECIPES
from trainer.runs import checkpoint, run_folder

T = TypeVar("T")


def parse(
    kind: type[T], program: str, default: T, argv: Sequence[str] | None = None, *, ranks: bool = True
) -> T:
    """Read the command line into `kind`; what is not given keeps the value in `default`.

    Under mpirun only rank 0 prints help and complaints; any other rank is silent and leaves as rank 0 does.
    A command that never runs in ranks says `ranks=False` and needs no MPI.
    """
    with contextlib.ExitStack() as stack:
        if ranks and _rank() != 0:
            nothing = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
            stack.enter_context(contextlib.redirect_stderr(nothing))
        return tyro.cli(
            kind,
            prog=program,
            args=list(sys.argv[1:] if argv is None else argv),
            default=default,
            config=(tyro.conf.OmitArgPrefixes,),
        )


def parse_config(argv: Sequence[str] | None = None) -> Config:
    """The training command's flags, on top of what they name: a run that exists brings its own settings,
    otherwise the recipe does. Rank 0 reads the run's and tells the others."""
    from trainer.parallel.agreement import on_root  # MPI starts here, not for commands of one process
    from trainer.parallel.topology import world

    args = list(sys.argv[1:] if argv is None else argv)
    return parse(Config, "python -m trainer.run", on_root(world(), lambda: _default(args)), args)


def _default(args: Sequence[str]) -> Config:
    """The configuration that the flags change: that of the run which --run or --resume names, or a recipe."""
    run, resume = _value(args, "--run"), _value(args, "--resume")
    if run is None and resume not in (None, "auto", "never"):
        run = str(checkpoint.run_of(Path(str(resume))))
    if run is not None and run_folder.record(Path(run)):
        return with_changes(run_folder.read_config(Path(run)), folder=None, max_steps=None, resume="auto")
    return RECIPES.get(_value(args, "--recipe") or "auto", AUTO)


def _rank() -> int:
    from trainer.parallel.topology import world

    return world().rank


def _value(args: Sequence[str], flag: str) -> str | None:
    """What a flag is set to, before the whole command line is read; the last of several counts."""
    found = None
    for this, following in pairwise([*args, ""]):
        if this == flag:
            found = following
        if this.startswith(f"{flag}="):
            found = this.removeprefix(f"{flag}=")
    return found
