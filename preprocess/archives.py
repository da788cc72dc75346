"""Where each member of a tar lies. Headers are read, members are not; nothing is ever extracted."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from preprocess.errors import UserError

BLOCK = 512  # bytes; a tar is made of such blocks, and one of zeros ends it
COMPRESSED = {b"\xfd7zXZ": "xz", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A regular file in a tar; anything else has `length` -1."""

    name: str
    offset: int  # of its first byte, from the start of the outermost archive
    length: int


def members(archive: Path) -> Iterator[Member]:
    """The members of an uncompressed tar, in its order.

    Raises:
        UserError: it is compressed, no tar, cut off, or a member claims to be longer than the archive.
    """
    with archive.open("rb") as file:
        start = file.read(6)
        for magic, program in COMPRESSED.items():
            if start.startswith(magic):
                raise UserError(
                    f"{archive} is compressed with {program}, and pictures are read at random from where "
                    f"they lie: decompress it first (`{program} -dk {archive.name}`) and give the .tar"
                )
        yield from _members(file, archive, 0, archive.stat().st_size)


def nested_members(archive: Path) -> Iterator[tuple[str, Member]]:
    """The members of the tars in a tar, each with the name of the tar it lies in.

    Raises:
        UserError: as `members`, for the outer and for the inner archives.
    """
    with archive.open("rb") as file:
        for inner in members(archive):
            if inner.name.endswith(".tar") and inner.length >= 0:
                for member in _members(file, archive, inner.offset, inner.offset + inner.length):
                    yield inner.name, member


def _members(file: BinaryIO, archive: Path, begin: int, end: int) -> Iterator[Member]:
    file.seek(begin)
    damaged = f"{archive} is damaged or cut off at byte {{}}: get it again"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:  # counts from where the file stands
            while (header := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or a million headers stay in memory
                if header.offset_data + header.size > end:
                    raise UserError(damaged.format(end))
                plain = header.isreg() and not header.issparse()
                yield Member(header.name, header.offset_data, header.size if plain else -1)
            stop = tar.offset
    except tarfile.TarError as error:
        if begin == 0 and file.tell() <= BLOCK:
            raise UserError(f"{archive} is no tar archive ({error})") from error
        raise UserError(damaged.format(file.tell())) from error
    # tarfile takes any bad header for the end; only a block of zeros is one
    file.seek(stop)
    if stop + BLOCK > end or file.read(BLOCK) != bytes(BLOCK):
        raise UserError(damaged.format(stop))
