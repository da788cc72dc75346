"""Checksums of whole files, in hexadecimal. Both let other threads run meanwhile."""

import hashlib
import mmap
from pathlib import Path

import crc32c

from preprocess.shards.direct_io import BUFFER, read, set_direct_io


def crc32c_of(path: Path) -> str:
    """The CRC-32C of a file as it is on the disk, read without the page cache. Raises OSError."""
    crc = 0
    with path.open("rb", buffering=0) as file, mmap.mmap(-1, BUFFER) as buffer, memoryview(buffer) as whole:
        set_direct_io(file.fileno(), True)
        while found := read(file.fileno(), buffer):
            crc = crc32c.crc32c(whole[:found], crc)
    return f"{crc:08x}"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
