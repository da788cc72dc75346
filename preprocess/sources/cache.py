"""Caches the members and MD5 sums of archives; valid while an archive's size and time stay the same."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from preprocess.containers.entries import Entry
from preprocess.containers.gzip import is_gzip, load_index
from preprocess.containers.kept import kept_path, stamp
from preprocess.shared import json_files, progress
from preprocess.shared.files import write_atomically, write_json
from preprocess.shared.json_files import JsonError

RULES = 3  # to be raised when `members` of the same archive would be others
PIECE = 2**23  # bytes hashed at a time


class _Md5(TypedDict):
    stamp: list[int]
    md5: str


def cached_members(
    archive: Path, folder: Path | None, members: Callable[..., Iterable[Entry]], shown: bool = True
) -> list[Entry]:
    """The list of `members(archive)`, from the cache in `folder` where it is valid.

    Args:
        archive: the archive.
        folder: of the cache; None: no cache.
        members: reads the archive; its name is a part of the cache's key. Where the archive is compressed
            with gzip, it also gets the folder in which the index is kept.
        shown: whether to show progress.

    Raises:
        UserError: as `members`.
    """
    kept = kept_path(folder, archive, ".npz") if folder else None
    key = json.dumps([RULES, members.__name__, *stamp(archive)])
    compressed = is_gzip(archive)
    indexed = not compressed or (folder and load_index(archive, folder))
    if kept and indexed and (found := _load(kept, key)) is not None:
        return found
    entries = []
    with closing(progress.counter(" members", None, archive.name, shown=shown and not compressed)) as bar:
        for entry in members(archive, folder) if compressed else members(archive):
            entries.append(entry)
            bar.update(1)
    if kept:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            key=np.array(key),
            places=np.array([entry[1:3] for entry in entries], dtype=np.int64).reshape(-1, 2),
            names=_joined(entry.name for entry in entries),
            strange=_joined(entry.strange for entry in entries),
            texts=_joined(entry.text for entry in entries),
        )
        write_atomically(kept, buffer.getvalue())
    return entries


def md5(archive: Path, folder: Path | None) -> str:
    """The MD5 sum of an archive, in hexadecimal, from the cache in `folder` where it is valid."""
    kept = folder / f"{archive.name}.md5.json" if folder else None
    stamped = stamp(archive)
    if kept:
        with suppress(JsonError):  # absent or damaged: the archive is read again
            found = json_files.read(kept, _Md5)
            if found["stamp"] == stamped:
                return found["md5"]
    digest = hashlib.md5(usedforsecurity=False)
    with (
        archive.open("rb") as file,
        closing(progress.counter("B", archive.stat().st_size, f"md5 {archive.name}")) as bar,
    ):
        while piece := file.read(PIECE):
            digest.update(piece)
            bar.update(len(piece))
    if kept:
        write_json(kept, {"stamp": stamped, "md5": digest.hexdigest()})
    return digest.hexdigest()


def _load(kept: Path, key: str) -> list[Entry] | None:
    try:
        with np.load(kept) as stored:
            if str(stored["key"]) != key:
                return None
            names, strange, texts = (_split(stored[column]) for column in ("names", "strange", "texts"))
            offsets, lengths = stored["places"].T.tolist()
        return list(map(Entry, names, offsets, lengths, strange, texts))
    except Exception:  # absent, damaged or of another version: the archive is read again
        return None


def _joined(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Texts without line ends as one array of bytes: an array of strings would be as wide as the longest."""
    return np.frombuffer("".join(f"{text}\n" for text in texts).encode("utf-8", "surrogateescape"), np.uint8)


def _split(array: NDArray[np.uint8]) -> list[str]:
    return array.tobytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
