"""A large file from pieces: hashed where they are made, written by a thread, past the page cache if it can.

What a shard holds is not read again soon. Going round the page cache spares the processor a copy and the
finding of free pages, and leaves the memory to what is read. Hashing beside the writing would cost
all cores together more: what another core hashes has left the cache of the one that made it.
"""

import errno
import hashlib
import mmap
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import crc32c

from preprocess.shards.layout import Buffer
from preprocess.shared.files import BUFFER, past_the_cache, replacing


@dataclass(frozen=True, slots=True)
class Written:
    """What a file held when it was written."""

    bytes: int
    sha256: str
    crc32c: str


def write_large(path: Path, pieces: Iterable[Buffer]) -> Written:
    """Write the pieces, whole or not at all; the next ones are made while a thread waits for the disk.

    Raises:
        OSError: the disk is full, or gone.
    """
    size = crc = 0
    digest = hashlib.sha256()
    with replacing(path) as handle, ThreadPoolExecutor(1) as thread:
        sink = _Sink(handle, thread)
        for piece in pieces:
            size += len(piece)
            digest.update(piece)
            crc = crc32c.crc32c(piece, crc)
            sink.take(piece)
        sink.finish()
    return Written(size, digest.hexdigest(), f"{crc:08x}")


class _Sink:
    """Takes bytes and has a thread write them a buffer at a time, while the other buffer is filled."""

    def __init__(self, handle: int, thread: ThreadPoolExecutor) -> None:
        self._handle, self._thread = handle, thread
        self._buffer, self._other = (mmap.mmap(-1, BUFFER) for _ in range(2))
        self._filled = 0
        self._writing: Future[None] | None = None
        past_the_cache(handle, True)

    def take(self, piece: Buffer) -> None:
        rest = memoryview(piece)
        while rest:
            now = rest[: BUFFER - self._filled]
            self._buffer[self._filled : self._filled + len(now)] = now
            self._filled, rest = self._filled + len(now), rest[len(now) :]
            if self._filled == BUFFER:
                self._wait()
                self._writing = self._thread.submit(_write, self._handle, self._buffer, BUFFER)
                self._buffer, self._other, self._filled = self._other, self._buffer, 0

    def finish(self) -> None:
        self._wait()
        past_the_cache(self._handle, False)  # takes whole blocks only
        _write(self._handle, self._buffer, self._filled)

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()


def _write(handle: int, buffer: mmap.mmap, filled: int) -> None:
    with memoryview(buffer) as whole:
        done = 0
        while done < filled:
            try:
                done += os.write(handle, whole[done:filled])
            except OSError as error:
                # some file systems say only here that they do not do this
                if error.errno != errno.EINVAL or not past_the_cache(handle, False):
                    raise
