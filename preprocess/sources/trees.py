"""The files of a source, on disk or in an archive, in one form for the layouts that may be in either."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from preprocess.containers import tar
from preprocess.containers.entries import Entry
from preprocess.containers.fetch import open_container
from preprocess.containers.zip import is_zip, zip_members
from preprocess.errors import UnreadableError, UserError
from preprocess.sources.cache import cached_members
from preprocess.sources.class_folders import files_on_disk

LONGEST_TABLE = 2**26  # bytes; the longest real ones have 4 MB


class Text(NamedTuple):
    """A table of a source."""

    path: Path  # for messages
    text: str


class Tree(Protocol):
    """The files of a source."""

    @property
    def root(self) -> Path:
        """The folder from which the names of archives and files start."""

    @property
    def archives(self) -> tuple[str, ...]:
        """The archive, if it is one."""

    @property
    def where(self) -> Path:
        """The place for messages."""

    @property
    def form(self) -> str:
        """Words for the kind of the source: " in a zip"."""

    def holds(self, name: str) -> bool:
        """Whether there is a file or folder."""

    def files(self, below: str) -> Iterable[Entry]:
        """What lies in the folder `below`, which ends with /, and below its parts. Raises OSError."""

    def text(self, name: str) -> Text:
        """The text of a file. Raises UserError, OSError."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A folder."""

    root: Path
    archives: ClassVar[tuple[str, ...]] = ()
    form: ClassVar[str] = ""

    @property
    def where(self) -> Path:
        """The folder."""
        return self.root

    def holds(self, name: str) -> bool:
        """As in Tree."""
        return (self.root / name).exists()

    def files(self, below: str) -> Iterable[Entry]:
        """As in Tree."""
        return files_on_disk(self.root, below)

    def text(self, name: str) -> Text:
        """As in Tree."""
        with (self.root / name).open("rb") as file:
            return _text(self.root / name, file.read(LONGEST_TABLE + 1))


class InArchive:
    """A tar, also a compressed one, or a zip."""

    def __init__(self, archive: Path, cache: Path | None) -> None:
        kind, members = lister(archive)
        self.root, self.archives, self.where = archive.parent, (archive.name,), archive
        self.form = f" in a {kind}"
        self.entries = cached_members(archive, cache, members)
        self._cache = cache

    def above(self, name: str) -> str | None:
        """The folder that holds a file, with / or empty; None: there is no such file."""
        end = f"/{name}"
        found = (entry.name for entry in self.entries if entry.name == name or entry.name.endswith(end))
        return next((full.removesuffix(name) for full in found), None)

    def holds(self, name: str) -> bool:
        """As in Tree."""
        inside = f"{name}/"
        return any(entry.name == name or entry.name.startswith(inside) for entry in self.entries)

    def files(self, below: str) -> Iterable[Entry]:
        """As in Tree."""
        return (entry for entry in self.entries if entry.name.startswith(below))

    def text(self, name: str) -> Text:
        """As in Tree."""
        entry = next(entry for entry in self.entries if entry.name == name and not entry.strange)
        container = open_container(self.where, self._cache)
        try:
            data = container.request(name, entry.offset, entry.length).read()
        except UnreadableError as error:
            raise UserError(f"{self.where / name} is {error}: get the archive again") from error
        finally:
            container.close()
        return _text(self.where / name, data)


def lister(archive: Path) -> tuple[str, Callable[[Path], Iterable[Entry]]]:
    """The kind of an archive in words, and what lists its members."""
    return ("zip", zip_members) if is_zip(archive) else ("tar", tar.members)


def _text(path: Path, data: bytes) -> Text:
    """A text in UTF-8; a byte order mark, which spreadsheets write, is left out. Raises UserError."""
    if len(data) > LONGEST_TABLE:
        raise UserError(
            f"{path} has more than {LONGEST_TABLE} bytes, and is no table of classes: get it again"
        )
    try:
        return Text(path, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8: save it as CSV in UTF-8, or get it again") from error
