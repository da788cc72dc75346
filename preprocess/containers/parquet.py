"""Images in the rows of a Parquet file: a column of structs with the field `bytes`. Needs pyarrow.

A file consists of row groups; in a row group each column consists of compressed pages. A row can only be
read with the whole page that holds it. So the rows are read in the order of the file, and each row group
once. Files are not trusted: what a footer claims is compared with the size of the file.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from preprocess.containers.entries import Entry
from preprocess.errors import UnreadableError, UserError
from preprocess.shared.image_files import MAX_BYTES

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

MAGIC, ENCRYPTED, POINTER = b"PAR1", b"PARE", b"version https://git-lfs"  # the first bytes of a file
BUFFER = 2**18  # bytes read from the disk at a time
PREFETCHED = 2**26  # bytes of a row group, at most
BATCH = 4  # rows of paths and labels read at a time: one long text, stored once, can be in all of them
LARGEST = 2**20  # bytes of paths and labels in a batch
LONGEST = 255  # bytes of a path's base name and of a label
IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label", "class", "cls")
NO_LABEL = "-1"  # as in the rows of a test part
CHANGED = -1  # in place of the number of a row group: the file is another one than when it was indexed


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file that are read."""

    image: str  # a column of structs
    content: str  # the field with the bytes of image files, <image>.bytes
    path: str  # that with the names that these had, <image>.path; "" where there is none
    label: str
    numbers: bool  # labels are whole numbers, not names
    names: tuple[str, ...]  # of the classes, by label; () where the file does not have them


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group, and where its images lie in the file."""

    begin: int  # its first row
    end: int
    offset: int  # in bytes
    length: int  # in bytes, compressed


class Parquet:
    """A Parquet file that is open for reading. An image's offset is its row, its length that of its group.

    A row group stays open at its next row as long as images of this file are requested.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_file(path)
        self._raw = FileIO(path)
        found = columns(path, self._file)
        self._columns = found
        self._groups = row_groups(path, self._file, found)
        self._requested = 0  # images that were neither read nor closed
        self._prefetched = self._open = CHANGED  # numbers of row groups
        self._next = 0  # the row that `_rows` yields next
        self._rows: Iterator[pa.Array | str] = iter(())

    def request(self, name: str, offset: int, length: int) -> RowImage:
        """The image in row `offset`, whose row group has `length` bytes of images."""
        self._requested += 1
        number = bisect_right(self._groups, offset, key=lambda group: group.begin) - 1
        group = self._groups[number] if number >= 0 else None
        as_indexed = group and offset < group.end and length == group.length
        return RowImage(name, self, number if as_indexed else CHANGED, offset)

    def close(self) -> None:
        """Close the file."""
        self._rows = iter(())
        self._file.close()
        self._raw.close()

    def prefetch(self, number: int) -> None:
        """Ask the system to begin reading a row group, where it has posix_fadvise."""
        if number not in (self._prefetched, CHANGED) and hasattr(os, "posix_fadvise"):
            group = self._groups[number]
            wanted = min(group.length, PREFETCHED)
            os.posix_fadvise(self._raw.fileno(), group.offset, wanted, os.POSIX_FADV_WILLNEED)
        self._prefetched = number

    def read(self, number: int, row: int) -> bytes:
        """The bytes in a row of a row group. Raises UnreadableError."""
        if number == CHANGED:
            raise UnreadableError("its row group is another one than when it was indexed")
        if number != self._open or row < self._next:
            self._open, self._next = number, self._groups[number].begin
            self._rows = self._read_group(number)
        found = next(islice(self._rows, row - self._next, None))
        self._next = row + 1
        if isinstance(found, str):
            raise UnreadableError(f"row group {number} cannot be read: {found}")
        if not found[0].is_valid:
            raise UnreadableError("its row has no bytes")
        data = found[0].as_buffer()
        if data.size > MAX_BYTES:
            raise UnreadableError(f"has {data.size} bytes, more than {MAX_BYTES}")
        content: bytes = data.to_pybytes()
        return content

    def release(self) -> None:
        """Note that an image was read or closed; free the memory of the row group with the last one."""
        self._requested -= 1
        if not self._requested:
            self._open, self._rows = CHANGED, iter(())

    def _read_group(self, number: int) -> Iterator[pa.Array | str]:
        """Yield each row as an array of one, and without end the reason why a row cannot be read."""
        reason = "it has fewer rows than it claims"
        try:
            # the rows of a batch lie in memory together; a batch of one takes no longer
            for batch in self._file.iter_batches(1, [number], [self._columns.content], use_threads=False):
                yield batch.column(self._columns.image).flatten()[0]
        except _errors() as error:
            reason = _short(error)
        yield from repeat(reason)


class RowImage:
    """An image in a row of a Parquet file."""

    def __init__(self, name: str, file: Parquet, group: int, row: int) -> None:
        self.name = name
        self._file, self._group, self._row = file, group, row
        self._requested = True

    def prefetch(self) -> None:
        """Ask the system to begin reading the row group."""
        self._file.prefetch(self._group)

    def read(self) -> bytes:
        """The image file's bytes. Call it once, before the next image. Raises UnreadableError."""
        try:
            return self._file.read(self._group, self._row)
        finally:
            self.close()

    def close(self) -> None:
        """Free the memory of the row group, unless other images of the file are requested."""
        if self._requested:
            self._file.release()
        self._requested = False


def open_file(path: Path) -> ParquetFile:
    """Open a Parquet file and read its footer.

    Raises:
        UserError: pyarrow is missing, or the file is no Parquet file, encrypted or damaged.
        OSError: no access.
    """
    with path.open("rb") as file:
        start = file.read(len(POINTER))
    if start == POINTER:
        raise UserError(
            f"{path} stands in for a file that Git LFS has not got: run `git lfs pull` in its folder"
        )
    if start.startswith(ENCRYPTED):
        raise UserError(f"{path} is encrypted: write it again without encryption")
    if not start.startswith(MAGIC):
        raise UserError(f"{path} is no Parquet file, it begins with {start[:8]!r}: get it again")
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            f"{path} is a Parquet file, and pyarrow, which reads it, cannot be imported ({error}): "
            '`pip install "two-tower-alexnet[parquet]"` or `pip install pyarrow`'
        ) from error
    with _readable(path):
        return ParquetFile(path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True)


def columns(path: Path, file: ParquetFile) -> Columns:
    """The columns with the images and their labels. Raises UserError where there are none."""
    import pyarrow as pa

    with _readable(path):
        schema = file.schema_arrow
    structs = {field.name: field.type for field in schema if pa.types.is_struct(field.type)}
    images = [name for name, fields in structs.items() if _is_binary(fields, "bytes")]
    named = [name for name in IMAGES if name in images] or images
    there = ", ".join(f"{field.name} ({str(field.type)[:60]})" for field in list(schema)[:8]) or "none"
    if not named:
        raise UserError(
            f"{path} has no column of images, which is a struct with the binary field bytes; its columns are "
            f"{there}: write it with the feature Image of the package datasets"
        )
    if named == images and len(images) > 1:
        raise UserError(f"{path} has several columns of images, {', '.join(images)}: name one of them image")
    image = named[0]
    label = next((name for name in LABELS if name in schema.names), "")
    if not label:
        raise UserError(
            f"{path} has no column of labels, which is named {', '.join(LABELS[:-1])} or {LABELS[-1]}; "
            f"its columns are {there}: rename the one with the labels"
        )
    kind = schema.field(label).type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{path} has labels of type {kind}: they must be whole numbers or names of classes")
    return Columns(
        image=image,
        content=f"{image}.bytes",
        path=f"{image}.path" if _is_binary(structs[image], "path") else "",
        label=label,
        numbers=pa.types.is_integer(kind),
        names=_class_names(schema.metadata, label) if pa.types.is_integer(kind) else (),
    )


def row_groups(path: Path, file: ParquetFile, found: Columns) -> list[RowGroup]:
    """The row groups in order. Raises UserError where the footer claims more than the file can hold."""
    size = path.stat().st_size
    groups: list[RowGroup] = []
    begin = 0
    with _readable(path):
        leaves = {file.schema.column(number).path: number for number in range(len(file.schema))}
        read = [leaves[name] for name in (found.content, found.path, found.label) if name]
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            end = begin + group.num_rows
            if not begin <= end <= size:
                raise ValueError(f"row group {number} claims {group.num_rows} rows")
            places = [_place(group.column(leaf)) for leaf in read]
            for offset, length in places:
                if offset < 0 or length < 0 or offset + length > size:
                    raise ValueError(f"row group {number} claims {length} bytes from byte {offset} on")
            groups.append(RowGroup(begin, end, *places[0]))
            begin = end
    return groups


def rows(path: Path) -> Iterator[Entry]:
    """Yield the rows of a file in their order, as entries.

    An entry's name is <base name of the image's path>/<label>, with "" for no path, and NO_LABEL. Its offset
    is the number of the row group, and its length that of the row group's images in bytes, compressed.

    Raises:
        UserError: as `open_file`, `columns` and `row_groups`, or a label is no name of a class.
        OSError: no access.
    """
    with open_file(path) as file, _readable(path):
        found = columns(path, file)
        groups = row_groups(path, file, found)
        names = _row_names(path, file, found)
        for number, group in enumerate(groups):
            for _ in range(group.begin, group.end):
                if (name := next(names, None)) is None:
                    raise ValueError("it has fewer rows than it claims")
                yield Entry(name, number, group.length)


def _row_names(path: Path, file: ParquetFile, found: Columns) -> Iterator[str]:
    """Yield the names of the entries of `rows`."""
    read = [name for name in (found.path, found.label) if name]
    for batch in file.iter_batches(BATCH, columns=read, use_threads=False):
        if batch.nbytes > LARGEST:
            raise ValueError(f"{len(batch)} rows have {batch.nbytes} bytes of paths and labels")
        labels = _texts(batch.column(found.label))
        paths = _texts(batch.column(found.image).flatten()[0]) if found.path else [""] * len(labels)
        for where, label in zip(paths, labels, strict=True):
            if not _is_name(label):
                raise UserError(f"{path} has the label {label[:40]!a}, which is no name of a class")
            name = where.replace("\\", "/").rpartition("/")[2]
            yield f"{name if _is_name(name) else ''}/{label or NO_LABEL}"


def _is_name(text: str) -> bool:
    return len(text) <= LONGEST and "\n" not in text and "\0" not in text


def _texts(array: pa.Array) -> list[str]:
    """The values of an array of texts or whole numbers as texts; "" for null."""
    import pyarrow as pa

    if pa.types.is_integer(array.type):
        return ["" if value is None else str(value) for value in array.to_pylist()]
    # Arrow does not check that texts are UTF-8
    return [os.fsdecode(value or b"") for value in array.cast(pa.large_binary()).to_pylist()]


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """The names of the classes in a schema's metadata, as the package datasets writes them; () for none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (LookupError, TypeError, ValueError, RecursionError):
        return ()


def _is_binary(fields: pa.StructType, name: str) -> bool:
    """Whether a struct has this field, of texts or bytes."""
    import pyarrow as pa

    binary = (pa.binary(), pa.large_binary(), pa.string(), pa.large_string())
    return fields.get_field_index(name) >= 0 and fields.field(name).type in binary


def _place(chunk: pa.parquet.ColumnChunkMetaData) -> tuple[int, int]:
    """Where a column of a row group begins in the file, and how long it is, in bytes."""
    begin = chunk.data_page_offset
    return min(begin, chunk.dictionary_page_offset or begin), chunk.total_compressed_size


def _errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a file that is damaged."""
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError, LookupError, MemoryError


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into UserError; an OSError of the system stays as it is."""
    try:
        yield
    except _errors() as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path} is damaged, or of a kind that cannot be read ({_short(error)})") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
