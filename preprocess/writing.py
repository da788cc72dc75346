"""A large file from pieces: hashed and written by a thread of its own, past the page cache where that works.

What a shard holds is not read again soon. Going round the cache spares the processor a copy and the finding
of free pages, and leaves the memory to what is read.
"""

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from preprocess.files import replacing

BUFFER = 2**20  # bytes that are written at a time: whole blocks of any disk, at an address that is one too
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux's


@dataclass(frozen=True, slots=True)
class Written:
    """What a file held when it was written."""

    bytes: int
    sha256: str
    crc32c: str


def write_large(path: Path, pieces: Iterable[bytes]) -> Written:
    """Write the pieces, whole or not at all; the next ones are made while a thread hashes and writes.

    Raises:
        OSError: the disk is full, or gone.
    """
    with replacing(path) as handle, ThreadPoolExecutor(1) as thread:
        sink = _Sink(handle)
        before: Future[None] | None = None
        some: list[bytes] = []
        for piece in pieces:
            some.append(piece)
            if sum(map(len, some)) >= BUFFER:
                if before:
                    before.result()  # no more than two buffers wait to be written
                before, some = thread.submit(sink.take, some), []
        if before:
            before.result()
        sink.take(some)
        return sink.finish()


class _Sink:
    """Takes bytes and writes them a buffer at a time."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._buffer = mmap.mmap(-1, BUFFER)
        self._filled = self._bytes = self._crc = 0
        self._digest = hashlib.sha256()
        _past_the_cache(handle, True)

    def take(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._bytes += len(piece)
            self._digest.update(piece)
            self._crc = google_crc32c.extend(self._crc, piece)
            rest = memoryview(piece)
            while rest:
                now = rest[: BUFFER - self._filled]
                self._buffer[self._filled : self._filled + len(now)] = now
                self._filled, rest = self._filled + len(now), rest[len(now) :]
                if self._filled == BUFFER:
                    self._write()

    def finish(self) -> Written:
        _past_the_cache(self._handle, False)  # takes whole blocks only
        self._write()
        return Written(self._bytes, self._digest.hexdigest(), f"{self._crc:08x}")

    def _write(self) -> None:
        with memoryview(self._buffer) as whole:
            done = 0
            while done < self._filled:
                try:
                    done += os.write(self._handle, whole[done : self._filled])
                except OSError as error:
                    # some file systems say only here that they do not do this
                    if error.errno != errno.EINVAL or not _past_the_cache(self._handle, False):
                        raise
        self._filled = 0


def _past_the_cache(handle: int, on: bool) -> bool:
    """Switch it on or off; whether that changed anything. A file system that cannot leaves it off."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    wanted = flags | DIRECT if on else flags & ~DIRECT
    if wanted == flags:
        return False
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, wanted)
    except OSError:
        return False
    return True
