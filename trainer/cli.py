"""Command lines from dataclasses: a field is a flag, its docstring the help."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import tyro

from trainer.config import Config, with_changes
from trainer.errors import UserError, as_disk_failure
from trainer.parallel import interrupt
from trainer.recipes import AUTO, RECIPES
from trainer.runs import checkpoint, run_folder

T = TypeVar("T")


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """For commands of one process: a UserError or a full disk is one line on stderr and exit code 1.

    Commands of many ranks use `parallel.ending.abort_all_on_error`.
    """
    interrupt.raise_again()
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(interrupt.CODE) from None
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        raise SystemExit(0) from None
    except (UserError, OSError) as error:
        sentence = error if isinstance(error, UserError) else as_disk_failure(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def parse(
    kind: type[T], program: str, default: T, argv: Sequence[str] | None = None, *, ranks: bool = True
) -> T:
    """Read the command line into `kind`; flags that are not given keep the values of `default`.

    Under mpirun only rank 0 prints help and errors; the other ranks end with the same code. `ranks=False` is
    for commands that never run under mpirun, and needs no MPI.
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
    """The configuration of the training command: an existing run's settings, or a recipe's, and the flags.

    Rank 0 reads those of the run and sends them to the others.
    """
    from trainer.parallel.agreement import on_root  # MPI starts here, not for commands of one process
    from trainer.parallel.topology import world

    args = list(sys.argv[1:] if argv is None else argv)
    return parse(Config, "python -m trainer.run", on_root(world(), lambda: _default(args)), args)


def _default(args: Sequence[str]) -> Config:
    """The settings that the flags change: of the run that --run or --resume names, or of a recipe."""
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
    """The value of a flag, before the whole command line is parsed; the last of several counts."""
    found = None
    for this, following in pairwise([*args, ""]):
        if this == flag:
            found = following
        if this.startswith(f"{flag}="):
            found = this.removeprefix(f"{flag}=")
    return found
