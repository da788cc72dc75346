"""Numba's compiler, for all loops of both packages: each is compiled once on a machine, by one process.

The ranks of a job meet a new loop at the same moment. Each of them compiling it would keep eight ranks on two
cores busy for over a minute; so one compiles, and the others wait and load what it saved.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numba
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])

PATIENCE = 120.0
"""Seconds that a process waits for another, which may have been stopped, before it compiles for itself."""


def cached_njit(**options: Any) -> Callable[[F], F]:
    """`numba.njit(cache=True)` with these further options, for many processes at once.

    Where neither the package nor the user's own cache can be written, the files are in `private_folder`;
    without it each process compiles for itself.
    """

    def compile_later(function: F) -> F:
        dispatcher: Any = numba.njit(**options)(function)
        if cache := _cache(function):
            dispatcher._cache = cache  # what enable_caching() sets
        loop: F = dispatcher
        return loop

    return compile_later


def private_folder() -> Path | None:
    """A folder of this user alone in the folder for temporary files; None where none can be made.

    The cache holds code that is executed, so no other user may write there.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"two-tower-alexnet-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if own and os.access(folder, os.W_OK) else None


def cache_folder(loop: Any) -> str | None:
    """Where the compiled code of a loop is kept; None: nowhere."""
    folder: str | None = getattr(loop._cache, "cache_path", None)
    return folder


def _cache(function: Callable[..., Any]) -> FunctionCache | None:
    with contextlib.suppress(RuntimeError):  # Numba's own for "no locator available"
        return _OneCompiles(function)
    settings: Any = numba.config
    settings.CACHE_DIR = str(private_folder() or "")
    with contextlib.suppress(RuntimeError):
        return _OneCompiles(function) if settings.CACHE_DIR else None
    return None


class _OneCompiles(FunctionCache):
    """Numba's files of one compiled function, with a lock from a search that finds none until it is saved."""

    _lock: TextIO | None = None

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = super().load_overload(signature, target)
        if found is None:
            self._take_turn()
            found = super().load_overload(signature, target)
            if found is not None:
                self._end_turn()
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            super().save_overload(signature, compiled)
        finally:
            self._end_turn()

    def _take_turn(self) -> None:
        """Wait for a process that compiles this function. The kernel frees the lock of one that dies."""
        if self._lock:
            return
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):  # a disk without locks: each process for itself
            self._impl.locator.ensure_cache_path()
            self._lock = (Path(self.cache_path) / f"{self._impl.filename_base}.lock").open("w")
            while time.monotonic() < until:
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    time.sleep(0.05)

    def _end_turn(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None
