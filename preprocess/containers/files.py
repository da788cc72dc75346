"""Images that lie in a file byte for byte: as members of a tar, or each as a file of its own."""

import errno
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from preprocess.errors import UnreadableError, UserError
from preprocess.shared.image_files import MAX_BYTES

OF_THE_FILE = {  # errors of one file; others, such as too many open files, are not its fault
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    errno.EIO,
}


@dataclass(frozen=True, slots=True)
class Region:
    """An image that takes `length` bytes of a file from `offset` on."""

    name: str
    _file: FileIO | OSError  # why it cannot be opened
    _offset: int
    _length: int
    _own: bool = False  # the file is the image's own, and closed with it

    def read(self) -> bytes:
        """The image file's bytes. Call it once, before the next image. Raises UnreadableError."""
        try:
            if isinstance(self._file, OSError):
                raise self._file
            if self._length > MAX_BYTES:
                raise UnreadableError(f"has {self._length} bytes, more than {MAX_BYTES}")
            data = os.pread(self._file.fileno(), self._length, self._offset)
            if len(data) != self._length:
                raise UnreadableError("shorter than when it was indexed")
            return data
        except OSError as error:
            if error.errno not in OF_THE_FILE:
                raise
            raise UnreadableError(f"cannot be read: {error.strerror}") from error
        finally:
            self.close()

    def prefetch(self) -> None:
        """Ask the system to begin reading, where it has posix_fadvise."""
        # a length of 0 would mean the rest of the file
        wanted = 0 < self._length <= MAX_BYTES and hasattr(os, "posix_fadvise")
        if wanted and isinstance(self._file, FileIO):
            os.posix_fadvise(self._file.fileno(), self._offset, self._length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the image's own file; an archive stays open for other images."""
        if isinstance(self._file, FileIO) and self._own:
            self._file.close()


class Plain:
    """An archive whose members lie in it as they are, such as a tar."""

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path)

    def request(self, name: str, offset: int, length: int) -> Region:
        """The image in these bytes."""
        return Region(name, self._file, offset, length)

    def close(self) -> None:
        """Close the archive."""
        self._file.close()


def image_file(source: str, name: str, length: int) -> Region:
    """The image that is the file `name` below `source`. Raises UserError where the whole source is gone."""
    try:
        return Region(name, FileIO(Path(source, name)), 0, length, True)
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        top = Path(source, Path(name).parts[0])  # train/ may be a link to another disk
        try:
            there = any(top.iterdir())
        except OSError:
            there = False
        if there:  # a disk that is not mounted leaves an empty folder
            return Region(name, error, 0, length, True)
        raise UserError(
            f"the images are gone: {top} is no longer there, or empty; put it back, and run again"
        ) from error
