"""stdout and stderr whose reader may disappear: a terminal that is closed, `| head` that ends."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

GONE = (errno.EIO, errno.EPIPE)  # of a terminal that was closed; of a pipe without a reader


class Output:
    """A text stream that writes to /dev/null once its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._until_gone():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._until_gone():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _until_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in GONE:
                raise
            # The descriptor itself: libraries write to it too, and Python flushes it at the end.
            with contextlib.suppress(OSError, io.UnsupportedOperation):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, self._stream.fileno())
                os.close(nothing)


@contextlib.contextmanager
def outlives_reader() -> Iterator[None]:
    """Within this context no print fails because the reader of stdout or stderr is gone."""
    with (
        contextlib.redirect_stdout(cast(TextIO, Output(sys.stdout))),
        contextlib.redirect_stderr(cast(TextIO, Output(sys.stderr))),
    ):
        yield
