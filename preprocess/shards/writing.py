"""Writes a large file from pieces, hashes them, and bypasses the page cache where it can.

A shard is not read again soon. Without the page cache the processor is spared a copy and the search for free
pages, and the memory stays free for reads. The pieces are hashed by the thread that makes them, whose
cache holds them; in the writing thread, on another core, hashing would cost more in all.
"""

import hashlib
import mmap
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import crc32c

from preprocess.shards import direct_io
from preprocess.shards.direct_io import BUFFER
from preprocess.shards.layout import Buffer
from preprocess.shared.files import replacing


@dataclass(frozen=True, slots=True)
class Written:
    """Length and checksums (hexadecimal) of a file that was written."""

    bytes: int
    sha256: str
    crc32c: str


def write_large(path: Path, pieces: Iterable[Buffer]) -> Written:
    """Write the pieces atomically; the next ones are made while a thread waits for the disk.

    Raises:
        OSError: the disk is full, or gone.
    """
    size = crc = 0
    digest = hashlib.sha256()
    with replacing(path) as handle, ThreadPoolExecutor(1) as thread:
        writer = _Writer(handle, thread)
        for piece in pieces:
            size += len(piece)
            digest.update(piece)
            crc = crc32c.crc32c(piece, crc)
            writer.add(piece)
        writer.finish()
    return Written(size, digest.hexdigest(), f"{crc:08x}")


class _Writer:
    """Two buffers: a thread writes the one while the other is filled."""

    def __init__(self, handle: int, thread: ThreadPoolExecutor) -> None:
        self._handle, self._thread = handle, thread
        self._buffer, self._other = (mmap.mmap(-1, BUFFER) for _ in range(2))
        self._filled = 0
        self._writing: Future[None] | None = None
        direct_io.set_direct_io(handle, True)

    def add(self, piece: Buffer) -> None:
        """Copy the piece, and have each full buffer written. Raises OSError."""
        rest = memoryview(piece)
        while rest:
            now = rest[: BUFFER - self._filled]
            self._buffer[self._filled : self._filled + len(now)] = now
            self._filled, rest = self._filled + len(now), rest[len(now) :]
            if self._filled == BUFFER:
                self._wait()
                self._writing = self._thread.submit(direct_io.write, self._handle, self._buffer, BUFFER)
                self._buffer, self._other, self._filled = self._other, self._buffer, 0

    def finish(self) -> None:
        """Write the rest. Raises OSError."""
        self._wait()
        direct_io.set_direct_io(self._handle, False)  # direct I/O takes whole blocks only
        direct_io.write(self._handle, self._buffer, self._filled)

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()
