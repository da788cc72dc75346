"""Reads a tar that is compressed with gzip: forward once to list it, and then at random by an index.

The pass over the archive checks the CRC-32 of all of it, and makes the index: the places, about 4 MB of data
apart, where decompression can begin. Offsets are those in the decompressed stream.

Archives are not trusted. Memory does not grow with the stream, and one that expands more than images do is
refused. The index is kept with a checksum; a damaged one, or that of a replaced archive, is made again.
"""

import gzip
import io
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.containers.kept import kept_path, stamp
from preprocess.errors import UnreadableError, UserError
from preprocess.shared import progress
from preprocess.shared.cores import available_cores
from preprocess.shared.files import write_atomically
from preprocess.shared.image_files import MAX_BYTES

MAGIC = b"\x1f\x8b"
FORMAT = 1  # of the index file
PIECE = 2**20  # bytes decompressed at a time
BLOCK = 2**25  # bytes; images of one block of the stream are read together
MOST_EXPANDED = 100  # times; a tar of images expands 1.01 times, one of tiny images and labels about 10 times
ALWAYS_ALLOWED = 2**28  # bytes that any stream may have
MOST_THREADS = 2  # of the pass over the archive; each works ahead, in which a bomb takes up to 400 MB
READERS = 2  # archives with a reader, which holds some megabytes too; others get one when they are read
SUFFIX = ".gzindex.npz"


def is_gzip(archive: Path) -> bool:
    """Whether a file begins as one of gzip does. Raises OSError."""
    with archive.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Stream:
    """The decompressed stream, read forward; the last PIECE of it can be read again."""

    def __init__(self, archive: Path, reader: Any, bar: progress.Progress) -> None:
        self._archive, self._reader, self._bar = archive, reader, bar
        self._window, self._begin = b"", 0  # the bytes at hand, and where they begin
        self._position = 0
        self._packed = 0  # compressed bytes that were used
        self.crc = 0  # CRC-32 of all that was decompressed
        self.size = 0  # bytes of it
        self.index = b""  # of the whole stream, after the pass

    def tell(self) -> int:
        """The position in the stream."""
        return self._position

    def seek(self, position: int) -> int:
        """Go to a position; it is reached with the next read."""
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end of the stream.

        Raises:
            UserError: the stream is damaged, cut off or too large, or the position is far behind.
        """
        while self._position + size > self.size and self._decompress():
            pass
        start = self._position - self._begin
        if start < 0:
            raise self.damaged(f"its members overlap at byte {self._position}")
        data = self._window[start : start + size]
        self._position += len(data)
        return data

    def drain(self) -> None:
        """Decompress the rest. Raises UserError."""
        while self._decompress():
            pass

    def damaged(self, why: object) -> UserError:
        """The error for a stream that is not as it was."""
        return UserError(
            f"{self._archive} is damaged, cut off, or has other data behind its end ({why}): get it again"
        )

    def _decompress(self) -> bool:
        """Decompress a piece; False at the end."""
        try:
            piece = self._reader.read(PIECE)
        except (ValueError, RuntimeError) as error:
            raise self.damaged(str(error).partition("!")[0]) from error
        self.crc = zlib.crc32(piece, self.crc)
        self.size += len(piece)
        self._window = self._window[-PIECE:] + piece
        self._begin = self.size - len(self._window)
        packed = self._reader.tell_compressed() // 8
        self._bar.update(max(packed - self._packed, 0))
        self._packed = max(packed, self._packed)
        if self.size > ALWAYS_ALLOWED + MOST_EXPANDED * self._packed:
            raise UserError(
                f"{self._archive} expands more than {MOST_EXPANDED} times, as no tar of images does: "
                "get it again, or decompress it and give the .tar"
            )
        return bool(piece)


@contextmanager
def decompressed(archive: Path, indices: Path | None) -> Iterator[Stream]:
    """The stream of an archive, for one pass; what the caller leaves is read at the end, and checked.

    Args:
        archive: compressed with gzip.
        indices: the folder in which the index is kept afterwards; None: it is not kept, and
            no progress is shown.

    Raises:
        UserError: the archive is damaged or cut off, or rapidgzip is not installed.
    """
    before = stamp(archive)
    threads = min(available_cores(), MOST_THREADS)
    with (
        closing(progress.counter("B", before[0], archive.name, shown=indices is not None)) as bar,
        closing(_reader(archive, threads)) as reader,
    ):
        stream = Stream(archive, reader, bar)
        yield stream
        stream.drain()
        _check_end(archive, stream)
        content = io.BytesIO()
        reader.export_index(content, _format(archive))
        stream.index = content.getvalue()
        if indices:
            _write_index(indices, archive, before, stream.index)


def _check_end(archive: Path, stream: Stream) -> None:
    """Raise UserError for a stream without its end: rapidgzip takes the end of the file for it.

    The last eight bytes of a file are the CRC-32 and the length of its one member. Where there are several
    members, Python's own decompressor reads all of it again.
    """
    with archive.open("rb") as file:
        file.seek(-8, io.SEEK_END)
        end = file.read()
    expected = stream.crc.to_bytes(4, "little") + (stream.size % 2**32).to_bytes(4, "little")
    if end == expected:
        return
    try:
        with gzip.open(archive) as members:
            while members.read(PIECE):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise stream.damaged(error) from error


def _library(archive: Path) -> Any:
    try:
        import rapidgzip
    except ImportError:
        raise UserError(
            f"{archive} is compressed with gzip, and rapidgzip, which reads such archives at random, is not "
            'installed: run `pip install "two-tower-alexnet[gzip]"` or `pip install rapidgzip`, '
            "or decompress it and give the .tar"
        ) from None
    return rapidgzip


def _format(archive: Path) -> Any:
    """That of gztool, which compresses what decompression needs to begin: 15 kB for 1 GB of JPEGs."""
    return _library(archive).IndexFormat.GZTOOL


def _reader(archive: Path, threads: int) -> Any:
    try:
        return _library(archive).RapidgzipFile(str(archive), parallelization=threads)
    except (ValueError, RuntimeError) as error:
        archive.open("rb").close()  # the system's error, where there is one
        raise UserError(f"{archive} is damaged or cut off ({error}): get it again") from error


def _key(stamped: list[int]) -> str:
    return json.dumps([FORMAT, *stamped])


def _write_index(indices: Path, archive: Path, stamped: list[int], index: bytes) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, key=np.array(_key(stamped)), index=np.frombuffer(index, np.uint8))
    write_atomically(kept_path(indices, archive, SUFFIX), buffer.getvalue())


def load_index(archive: Path, indices: Path) -> bytes | None:
    """The index of an archive; None where there is none, or that of a replaced archive, or a damaged one."""
    try:
        with np.load(kept_path(indices, archive, SUFFIX)) as kept:  # a zip, which has checksums
            valid = str(kept["key"]) == _key(stamp(archive))
            return kept["index"].tobytes() if valid else None
    except Exception:  # absent, damaged or of another version
        return None


@dataclass(frozen=True, slots=True)
class Extent:
    """An image that takes `length` bytes of the decompressed stream from `offset` on."""

    name: str
    _archive: "Gzip"
    _offset: int
    _length: int

    def prefetch(self) -> None:
        """Nothing: images are read forward, and the system reads ahead by itself."""

    def read(self) -> bytes:
        """The image file's bytes. Raises UnreadableError."""
        if self._length > MAX_BYTES:
            raise UnreadableError(f"has {self._length} bytes, more than {MAX_BYTES}")
        return self._archive.read(self._offset, self._length)

    def close(self) -> None:
        """Nothing: the archive stays open for other images."""


class _Readers(threading.local):
    """The archives of a thread that have a reader; the one that was opened last is at the end."""

    def __init__(self) -> None:
        self.archives: list[Gzip] = []


_readers = _Readers()


class Gzip:
    """An archive compressed with gzip. It has a reader while it is among the last READERS of the thread."""

    def __init__(self, path: Path, indices: Path | None) -> None:
        """Open it. An index that is missing is made, which takes as long as decompressing the archive.

        Args:
            path: the archive.
            indices: the folder with the indices; None: none is kept.

        Raises:
            UserError: as `decompressed`; OSError: the archive cannot be opened.
        """
        self._path = path
        self._reader: Any = None
        index = load_index(path, indices) if indices else None
        if index is None:
            with decompressed(path, indices) as stream:
                pass
            index = stream.index
        self._index = index

    def request(self, name: str, offset: int, length: int) -> Extent:
        """The image in these bytes of the decompressed stream."""
        return Extent(name, self, offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the decompressed stream. Raises UnreadableError, and as `__init__`."""
        try:
            reader = self._open_reader()
            reader.seek(offset)
            data = b""
            while len(data) < length and (more := reader.read(length - len(data))):
                data += more
        except (ValueError, RuntimeError) as error:
            raise UnreadableError(f"cannot be decompressed: {error}") from error
        if len(data) != length:
            raise UnreadableError("shorter than when it was indexed")
        return data

    def close(self) -> None:
        """Close the reader; it is opened again when an image is read."""
        if self._reader:
            self._reader.close()
            self._reader = None
            _readers.archives.remove(self)

    def _open_reader(self) -> Any:
        if not self._reader:
            if len(_readers.archives) == READERS:
                _readers.archives[0].close()
            self._reader = _reader(self._path, 1)
            _readers.archives.append(self)
            self._reader.import_index(io.BytesIO(self._index))
        return self._reader
