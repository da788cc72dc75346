"""A command's own words: its name for the help, and its arguments."""

import sys
from collections.abc import Sequence
from pathlib import Path


def as_typed(program: str) -> str:
    """`program`, such as "python -m trainer.run", or "alexnet NAME" where the user typed that."""
    return sys.argv[0] if sys.argv[0].startswith("alexnet ") else program


def words(argv: Sequence[str] | None = None) -> list[str]:
    """The arguments; None: those of the command line. ~ is expanded: no shell does it in --store=~/a.zarr."""
    return [_expanded(word) for word in (sys.argv[1:] if argv is None else argv)]


def _expanded(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{flag}{equals}{expanded(value)}"


def expanded(path: str) -> str:
    """The path with ~ as the home folder. Other users' folders, as ~name, stay as they were typed."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path
