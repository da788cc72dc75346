"""The name of a command, for its help."""

import sys


def as_typed(program: str) -> str:
    """`program`, such as "python -m trainer.run", or "alexnet NAME" where the user typed that."""
    return sys.argv[0] if sys.argv[0].startswith("alexnet ") else program
