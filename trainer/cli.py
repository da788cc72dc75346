"""Command lines from dataclasses: a field is a flag, its docstring the help.

A command's own module has its flags. trainer/commands/ has its work, which is imported once the flags are
read: `--help` and a mistyped flag need no torch.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import tyro

from preprocess.shared import names
from preprocess.shared.program import as_typed, words
from trainer.config import Config, with_changes
from trainer.errors import UserError, as_disk_failure
from trainer.parallel import interrupt, launcher
from trainer.parallel.output import outlives_reader
from trainer.recipes import AUTO, RECIPES, with_network

PROGRAM = "python -m trainer.run"

T = TypeVar("T")


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """For commands of one process: a UserError or a full disk is one line on stderr and exit code 1.

    Commands of many ranks use `refused_by_all` and `parallel.ending.abort_all_on_error`.
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
        print(f"error: {names.shown(sentence)}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


@contextlib.contextmanager
def refused_by_all() -> Iterator[None]:
    """For the command line of many ranks: a wrong one ends all of them, with rank 0's message."""
    try:
        with outlives_reader():
            yield
    except BaseException as refusal:
        code = refusal.code if isinstance(refusal, SystemExit) else 1
        if launcher.size() > 1 and code:
            # A rank that leaves before rank 0 has printed would make the launcher end rank 0.
            from trainer.parallel.ending import abort_all_on_error

            with abort_all_on_error():
                raise
        if isinstance(refusal, UserError):
            print(f"error: {names.shown(refusal)}", file=sys.stderr, flush=True)
            raise SystemExit(1) from None
        raise


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """For a command's imports: Python's garbage collector never visits what they make.

    These are 300,000 objects that live as long as the process. The collector would visit them again and again
    during the imports, in each full collection later, and once more when the process ends.
    """
    if not interrupt.is_command():  # another program may have garbage of its own
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def parse(
    kind: type[T], program: str, default: T, argv: Sequence[str] | None = None, *, ranks: bool = True
) -> T:
    """Read the command line into `kind`; flags that are not given keep the values of `default`.

    program: "python -m trainer.NAME". Under mpirun only rank 0 prints help and errors; the other ranks end
    with the same code. `ranks=False` is for commands that never run under mpirun.
    """
    names.print_any_character()
    with contextlib.ExitStack() as stack:
        if ranks and launcher.rank() != 0:
            nothing = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
            stack.enter_context(contextlib.redirect_stderr(nothing))
        return tyro.cli(
            kind,
            prog=as_typed(program),
            args=words(argv),
            default=default,
            config=(tyro.conf.OmitArgPrefixes,),
        )


def parse_config(argv: Sequence[str] | None = None) -> Config:
    """The configuration of the training command: an existing run's settings, or a recipe's, and the flags.

    With --init-from a recipe has the settings of that network. Rank 0 reads those of a run or of a network
    and sends them to the others.
    """
    args = words(argv)
    run, resume, initial = (_value(args, flag) for flag in ("--run", "--resume", "--init-from"))
    resume = None if resume in ("auto", "never") else resume
    default = RECIPES.get(_value(args, "--recipe") or "auto", AUTO)
    if not (run or resume or initial):
        return parse(Config, PROGRAM, default, args)
    config = None
    if not {"-h", "--help"} & {*args}:  # help has the run's values
        with contextlib.suppress(UserError):  # and a mistyped flag is refused before torch is loaded
            config = parse(Config, PROGRAM, default, args)
    with quick_imports():
        from trainer.parallel.agreement import on_root
        from trainer.parallel.topology import world

    found = on_root(world(), lambda: _of_run(run, resume) or _of_initial(initial, default))
    return config if config and not found else parse(Config, PROGRAM, found or default, args)


def _of_initial(path: str | None, recipe: Config) -> Config | None:
    """The recipe with the settings of the network that --init-from names."""
    from trainer.evaluation import pretrained

    return with_network(recipe, pretrained.read_config(Path(path))) if path else None


def _of_run(run: str | None, resume: str | None) -> Config | None:
    """The settings of the run that --run or a checkpoint names; None where there is no such run yet."""
    from trainer.runs import checkpoint, run_folder

    if not (run or resume):
        return None
    folder = Path(run) if run else checkpoint.run_of(Path(str(resume)))
    if not run_folder.record(folder):
        return None
    return with_changes(run_folder.read_config(folder), folder=None, max_steps=None, resume="auto")


def _value(args: Sequence[str], flag: str) -> str | None:
    """The value of a flag, before the whole command line is parsed; the last of several counts."""
    found = None
    for this, following in pairwise([*args, ""]):
        if this == flag:
            found = following
        if this.startswith(f"{flag}="):
            found = this.removeprefix(f"{flag}=")
    return found
