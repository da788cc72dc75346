"""Reads and writes that bypass the page cache (O_DIRECT), where the system and the file system can.

Direct I/O needs buffers whose address and length are multiples of the disk's block: an anonymous mmap of
BUFFER bytes is. A file system may refuse it when it is switched on, or with EINVAL at the first transfer.
"""

import errno
import fcntl
import mmap
import os

BUFFER = 2**20  # bytes of one transfer
DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where the system has no direct I/O


def set_direct_io(handle: int, on: bool) -> bool:
    """Switch direct I/O of an open file; return whether that changed anything."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    wanted = flags | DIRECT if on else flags & ~DIRECT
    if wanted == flags:
        return False
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, wanted)
    except OSError:
        return False
    return True


def read(handle: int, buffer: mmap.mmap) -> int:
    """Fill the buffer from the file's position on; return the bytes read, 0 at the end. Raises OSError."""
    try:
        return os.readv(handle, [buffer])
    except OSError as error:
        if error.errno != errno.EINVAL or not set_direct_io(handle, False):
            raise
        return os.readv(handle, [buffer])


def write(handle: int, buffer: mmap.mmap, length: int) -> None:
    """Write the first `length` bytes of the buffer. Raises OSError."""
    with memoryview(buffer) as whole:
        done = 0
        while done < length:
            try:
                done += os.write(handle, whole[done:length])
            except OSError as error:
                if error.errno != errno.EINVAL or not set_direct_io(handle, False):
                    raise
