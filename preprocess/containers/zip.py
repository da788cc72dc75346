"""Lists the members of a zip, and reads them in place: stored or deflated ones.

The list is the central directory at the end of the file. Sections of PKWARE's APPNOTE 6.3.10 are named below.
An Entry's offset is that of the member's local header, and its length the compressed one.

Archives are not trusted: members may not overlap, a name is never used as a path, and a member is inflated to
at most MAX_BYTES. Its length and CRC-32 are checked when it is read.
"""

import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from struct import Struct, error, iter_unpack, pack, unpack_from
from typing import BinaryIO

import numpy as np

from preprocess.containers.entries import LINK, Entry, checked_name
from preprocess.containers.files import Region
from preprocess.errors import UnreadableError, UserError
from preprocess.shared.image_files import MAX_BYTES

LOCAL, LOCAL_MARK = Struct("<4s5H3L2H"), b"PK\3\4"  # 4.3.7
CENTRAL, CENTRAL_MARK = Struct("<4s2B3H4x3L5H2L"), b"PK\1\2"  # 4.3.12
END_64, END_64_MARK = Struct("<4sQ2H2L4Q"), b"PK\6\6"  # 4.3.14
LOCATOR_64, LOCATOR_64_MARK = Struct("<4sLQL"), b"PK\6\7"  # 4.3.15
END, END_MARK = Struct("<4s4H2LH"), b"PK\5\6"  # 4.3.16
DESCRIPTOR_MARK, DESCRIPTORS, LONGEST_DESCRIPTOR = b"PK\7\x08", ("<3L", "<L2Q"), 24  # 4.3.9
LONGEST_COMMENT = 2**16 - 1
ENCRYPTED, STREAMED = 1, 8  # flags, 4.4.4; the CRC-32 of a streamed member comes after its data
STORED, DEFLATED = 0, 8  # methods, 4.4.5
OTHER_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}
MS_DOS, UNIX = 0, 3  # systems, 4.4.2
IN_ZIP64 = 2**32 - 1  # stands for a number that is in the extra field of zip64
ZIP64 = 1  # the ID of that field, 4.5.3


def is_zip(archive: Path) -> bool:
    """Whether a file begins as a zip does, or is named as one."""
    with archive.open("rb") as file:
        return file.read(4) in (LOCAL_MARK, END_MARK) or archive.suffix.lower() == ".zip"


def zip_members(archive: Path) -> Iterator[Entry]:
    """Yield the members of a zip in the order of its list, without folders.

    Where several have one name, the last one counts, and the others are strange.

    Raises:
        UserError: it is no zip, damaged, cut off, or a part of several, or members overlap.
    """
    with archive.open("rb") as file:
        begin, end, count = _central_directory(file, archive)
        file.seek(begin)
        entries: list[Entry] = []
        listed = 0
        try:
            while file.tell() < end:
                if (entry := _member(file, begin)) is not None:
                    entries.append(entry)
                listed += 1
        except (error, IndexError, ValueError) as cause:
            raise UserError(f"{archive} has a damaged list of members: get it again") from cause
    if listed % 2**16 != count % 2**16:  # old programs write 16 bits of the number
        raise UserError(f"{archive} lists {listed} members and claims {count}: get it again")
    _refuse_overlap(archive, entries)
    last = {entry.name: number for number, entry in enumerate(entries)}
    for number, entry in enumerate(entries):
        yield entry if last[entry.name] == number else entry._replace(strange="a later member has its name")


def _central_directory(file: BinaryIO, archive: Path) -> tuple[int, int, int]:
    """The begin and end of the list of members in bytes, and the number of members. Raises UserError."""
    size = file.seek(0, 2)
    start = max(size - END.size - LONGEST_COMMENT, 0)
    file.seek(start)
    tail = file.read()
    found = tail.rfind(END_MARK)
    more = found >= 0 and 0 < _length_of_end(tail, found) < len(tail) - found
    while found >= 0 and _length_of_end(tail, found) != len(tail) - found:  # it may also be in a comment
        found = tail.rfind(END_MARK, 0, found)
    if found < 0:
        wrong = "has other bytes behind its end" if more else "is no zip archive, or is cut off"
        raise UserError(f"{archive} {wrong}: get it again")
    _, disk, _, _, count, length, begin, _ = END.unpack_from(tail, found)
    place, disks = start + found, 1
    if tail[max(found - LOCATOR_64.size, 0) :].startswith(LOCATOR_64_MARK):
        *_, disks = LOCATOR_64.unpack_from(tail, found - LOCATOR_64.size)
        place -= LOCATOR_64.size + END_64.size
        file.seek(max(place, 0))
        mark, *_, count, length, begin = END_64.unpack(file.read(END_64.size))
        if mark != END_64_MARK:
            raise UserError(f"{archive} is damaged at byte {place}: get it again")
    if disk not in (0, 2**16 - 1) or disks > 1:
        raise UserError(f"{archive} is one of several parts: unpack them, and give the folder")
    if place != begin + length:
        more = place - begin - length
        wrong = f"has {more} other bytes before the zip" if more > 0 else "is cut off"
        raise UserError(f"{archive} {wrong}: get it again, or unpack it and give the folder")
    return begin, place, count


def _length_of_end(tail: bytes, at: int) -> int:
    """The length of the end record at this place, with its comment; 0 where none fits."""
    return END.size + int(END.unpack_from(tail, at)[-1]) if at + END.size <= len(tail) else 0


def _member(file: BinaryIO, limit: int) -> Entry | None:
    """The next member of the list; None for a folder.

    Raises:
        struct.error, IndexError, ValueError: the list is damaged, or the member reaches beyond `limit`.
    """
    header = CENTRAL.unpack(file.read(CENTRAL.size))
    mark, _, system, _, flags, method, _, packed, size, *lengths, _, _, attributes, offset = header
    rest = file.read(sum(lengths))
    name = _text(rest[: lengths[0]])
    size, packed, offset = _wide(rest[lengths[0] : sum(lengths[:2])], size, packed, offset)
    if mark != CENTRAL_MARK or len(rest) != sum(lengths) or offset + LOCAL.size + packed > limit:
        raise ValueError
    if system == MS_DOS and "/" not in name:
        name = name.replace("\\", "/")  # as old programs wrote it, against 4.4.17
    if name.endswith("/"):
        return None
    name, strange = checked_name(name)
    kind = stat.S_IFMT(attributes >> 16) if system == UNIX else 0
    if not strange and flags & ENCRYPTED:
        strange = "encrypted"
    elif not strange and method not in (STORED, DEFLATED):
        strange = f"compressed with {OTHER_METHODS.get(method, f'method {method}')}, not with deflate"
    elif not strange and kind not in (0, stat.S_IFREG):
        strange = LINK if kind == stat.S_IFLNK else "no plain file"
    return Entry(name, offset, packed, strange)


def _text(raw: bytes) -> str:
    """A name. Many programs write UTF-8 without the flag that says so; else it is the IBM PC's code page."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """The numbers, where 32 bits did not suffice as zip64 has them. Raises struct.error, IndexError."""
    at = 0
    while IN_ZIP64 in numbers and at < len(extra):
        kind, length = unpack_from("<2H", extra, at)
        if kind == ZIP64:
            wide = [number for (number,) in iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])]
            return [wide.pop(0) if number == IN_ZIP64 else number for number in numbers]
        at += 4 + length
    return list(numbers)


def _refuse_overlap(archive: Path, entries: list[Entry]) -> None:
    """Raise UserError if two members share bytes, as in a zip that inflates to thousands of its size."""
    offset = np.array([entry.offset for entry in entries], dtype=np.int64)
    end = offset + LOCAL.size + np.array([entry.length for entry in entries], dtype=np.int64)
    order = np.argsort(offset)
    overlap = np.flatnonzero(end[order][:-1] > offset[order][1:])
    if len(overlap):
        first, second = (entries[number].name for number in order[overlap[0] : overlap[0] + 2])
        raise UserError(f"{archive} is damaged: its members {first} and {second} overlap; get it again")


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a zip."""

    name: str
    _file: FileIO
    _offset: int  # of its local header
    _length: int  # compressed

    def prefetch(self) -> None:
        """Ask the system to begin reading."""
        self._region(self._offset, LOCAL.size + len(self.name) + self._length).prefetch()

    def read(self) -> bytes:
        """The image file's bytes. Raises UnreadableError: it is damaged, or longer than MAX_BYTES."""
        header = LOCAL.unpack(self._bytes(self._offset, LOCAL.size))
        mark, _, flags, method, _, _, crc, _, size, name_length, extra_length = header
        if mark != LOCAL_MARK or flags & ENCRYPTED or method not in (STORED, DEFLATED):
            raise UnreadableError("not where it was when it was indexed")
        begin = self._offset + LOCAL.size + name_length
        extra = self._bytes(begin, extra_length)
        packed = self._bytes(begin + extra_length, self._length)
        data = packed if method == STORED else inflate(packed)
        found = zlib.crc32(data), len(data)
        if flags & STREAMED:
            behind = self._bytes(begin + extra_length + self._length, LONGEST_DESCRIPTOR)
            expected = [pack(form, found[0], self._length, found[1]) for form in DESCRIPTORS]
            sound = behind.removeprefix(DESCRIPTOR_MARK).startswith(tuple(expected))
        else:
            sound = found == (crc, _size(extra, size))
        if not sound:
            raise UnreadableError("damaged: its CRC-32 or its length is not that in the zip")
        return data

    def close(self) -> None:
        """Nothing: the archive stays open for other images."""

    def _region(self, offset: int, length: int) -> Region:
        return Region(self.name, self._file, offset, length)

    def _bytes(self, offset: int, length: int) -> bytes:
        return self._region(offset, length).read()


class Zip:
    """A zip that is open for reading."""

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path)

    def request(self, name: str, offset: int, length: int) -> Member:
        """The member whose local header is at `offset` and which has `length` compressed bytes."""
        return Member(name, self._file, offset, length)

    def close(self) -> None:
        """Close the archive."""
        self._file.close()


def inflate(packed: bytes) -> bytes:
    """Deflated data as they were. Raises UnreadableError: they are damaged, or longer than MAX_BYTES."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(packed, MAX_BYTES + 1)
    except zlib.error as cause:
        raise UnreadableError(f"damaged: {cause}") from cause
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"has more than {MAX_BYTES} bytes")
    if not stream.eof:
        raise UnreadableError("damaged: its compressed data have no end")
    return data


def _size(extra: bytes, size: int) -> int:
    """The length of a member; -1 where its extra field is damaged."""
    try:
        return _wide(extra, size)[0]
    except (error, IndexError):
        return -1
