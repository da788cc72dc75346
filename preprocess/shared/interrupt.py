"""Ctrl-C (SIGINT) in a command that cleans up before it ends."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CODE = 128 + signal.SIGINT  # as a shell reports it


@contextmanager
def interruptible(sentence: str) -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt in this context, and ends the process with a sentence after it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: {sentence}", file=sys.stderr, flush=True)
        sys.exit(CODE)
