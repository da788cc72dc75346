"""Lists the members of a tar with their offsets. Only headers are read, and nothing is extracted.

Archives are not trusted: a name is never used as a path, links and devices are marked as such, and a size
beyond the end of the archive is an error.
"""

import shlex
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from preprocess.containers import gzip
from preprocess.containers.entries import LINK, LONGEST_NAME, Entry, checked_name
from preprocess.errors import UserError
from preprocess.shared.image_files import hidden_part

BLOCK = 512  # bytes; a tar consists of such blocks, and a block of zeros ends it
LONGEST_HEADER = 2**20  # bytes of a long name or an extended header; a larger claim is refused
UNKNOWN = sys.maxsize  # the position of a compressed tar's end
COMPRESSED = {b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
STRANGE = {
    **dict.fromkeys((tarfile.SYMTYPE, tarfile.LNKTYPE), LINK),
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE), "a device"),
}


class Seekable(Protocol):
    """A tar that is open for reading forward."""

    def seek(self, position: int, /) -> int:
        """Go to a position, at least the last one less a few blocks."""

    def tell(self) -> int:
        """The position."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, fewer only at the end."""


def members(archive: Path, indices: Path | None = None) -> Iterator[Entry]:
    """Yield the members of a tar, plain or compressed with gzip, in their order, without folders.

    A hard link to an earlier member has that member's place; other links are strange.

    Args:
        archive: the tar.
        indices: the folder in which the index of a compressed one is kept.

    Raises:
        UserError: it is compressed in another way, no tar or cut off, or a member claims to reach beyond
            its end.
    """
    with opened(archive, indices) as (file, end):
        yield from members_of(file, archive, 0, end)


def nested_members(archive: Path, indices: Path | None = None) -> Iterator[Entry]:
    """Yield the members of the tars in a tar, named <inner tar without its suffix>/<name>.

    Args and raises:
        As `members`, for the outer and the inner archives.
    """
    with opened(archive, indices) as (file, end):
        for inner in members_of(file, archive, 0, end):
            if inner.strange or hidden_part(inner.name) or not inner.name.endswith(".tar"):
                yield inner._replace(strange=inner.strange or "not the tar of a class")
                continue
            folder = inner.name.removesuffix(".tar").rpartition("/")[2]
            for entry in members_of(file, archive, inner.offset, inner.offset + inner.length):
                yield entry._replace(name=f"{folder}/{entry.name}")


@contextmanager
def opened(archive: Path, indices: Path | None = None) -> Iterator[tuple[Seekable, int]]:
    """A tar, open for one pass, and the position of its end. Raises UserError as `members`."""
    with archive.open("rb") as file:
        start = file.read(6)
        if start.startswith(gzip.MAGIC):
            with gzip.decompressed(archive, indices) as stream:
                yield stream, UNKNOWN
            return
        for magic, program in COMPRESSED.items():
            if start.startswith(magic):
                raise UserError(
                    f"{archive} is compressed with {program}, and images are read from it at random: "
                    f"decompress it first (`{program} -dk {shlex.quote(archive.name)}`) and give the .tar"
                )
        yield file, archive.stat().st_size


class _Headers:
    """A file for tarfile that refuses reads larger than a header: such a header's size is false."""

    def __init__(self, file: Seekable) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def members_of(file: Seekable, archive: Path, begin: int, end: int) -> Iterator[Entry]:
    """Yield the members of the tar that takes these bytes of a file; it may be moved in between.

    Raises:
        UserError: as `members`.
    """
    file.seek(begin)
    damaged = f"{archive} is damaged or cut off at byte {{}}: get it again"
    headers: Any = _Headers(file)
    earlier: dict[str, Entry] = {}
    try:
        with tarfile.open(fileobj=headers, mode="r:") as tar:  # begins at the file's position
            while (header := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or it keeps a million headers in memory
                if header.size < 0 or header.offset_data + header.size > end:
                    left = "" if end == UNKNOWN else f", and {end - header.offset_data} are left"
                    raise UserError(
                        f"{archive} is damaged or cut off: its member {header.name[:LONGEST_NAME]} at byte "
                        f"{header.offset} claims {header.size} bytes{left}: get it again"
                    )
                if not header.isdir():
                    target = earlier.get(header.linkname) if header.islnk() else None
                    if target and not target.strange:
                        header.type = tarfile.REGTYPE
                        header.offset_data, header.size = target.offset, target.length
                    entry = _entry(header)
                    earlier[entry.name] = entry
                    yield entry
            stop = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if begin == 0 and file.tell() <= BLOCK:
            raise UserError(f"{archive} is no tar archive ({error})") from error
        raise UserError(damaged.format(file.tell())) from error
    # tarfile takes any bad header for the end; the true end is a block of zeros
    file.seek(stop)
    if stop + BLOCK > end or file.read(BLOCK) != bytes(BLOCK):
        raise UserError(damaged.format(stop))


def _entry(header: tarfile.TarInfo) -> Entry:
    name, wrong = checked_name(header.name)
    special = "" if header.isreg() and not header.issparse() else "no plain file"
    strange = STRANGE.get(header.type, "") or wrong or special
    return Entry(name, header.offset_data, header.size, strange)
