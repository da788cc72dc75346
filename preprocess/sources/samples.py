"""The members of a WebDataset's tar, and its samples: an image and its label.

The key of a member is its name up to the first dot of its last part. The members of a sample have one key and
follow each other.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from preprocess.containers.entries import Entry
from preprocess.containers.tar import members_of, opened
from preprocess.errors import UserError
from preprocess.shared import json_files
from preprocess.shared.image_files import hidden_part, is_image_name
from preprocess.sources.tables import LeftAside

KEY = re.compile(r"((?:.*/|)[^./]+)\.([^/]+)")  # and the extension, which may have dots
WNID = re.compile(r"(?<![0-9A-Za-z])n\d{8}(?!\d)")
NUMBER = re.compile(r"-?\d{1,9}")
LONGEST_LABEL = 20  # bytes of a .cls that are read
LONGEST_JSON = 2**16  # bytes; a longer one is not read
NONE = "-"  # in a member's text: JSON without this value


class Sample(NamedTuple):
    """An image and its label."""

    image: Entry
    label: int
    wnid: str  # "": none


def labelled_members(archive: Path, indices: Path | None = None) -> Iterator[Entry]:
    """Yield the members of a tar, those that hold labels with their text.

    The text of a .cls is its own. That of a .json is the label and the wnid, or "-", with a space in between.

    Args and raises:
        As `containers.tar.members`.
    """
    with opened(archive, indices) as (file, end):
        for entry in members_of(file, archive, 0, end):
            extension = "" if entry.strange else key_of(entry)[1]
            if extension in ("cls", "json"):
                file.seek(entry.offset)
                data = file.read(min(entry.length, LONGEST_LABEL if extension == "cls" else LONGEST_JSON))
                if extension == "json":
                    text = _of_json(data) if entry.length == len(data) else ""
                else:
                    text = _of_cls(data, entry.length)
                entry = entry._replace(text=text)
            yield entry


def _of_cls(data: bytes, length: int) -> str:
    text = data.decode("ascii", "replace").strip()
    whole = length == len(data)
    return text if whole and NUMBER.fullmatch(text) else repr(text) + ("" if whole else "...")


def _of_json(data: bytes) -> str:
    """The label and the wnid in JSON; "" where it is damaged."""
    with suppress(json_files.JsonError):
        found = json_files.parse(data, dict[str, Any], "")
        label = found.get("label")
        wnid = _wnid(str(found.get("filename", "")))
        return f"{label if type(label) is int and abs(label) < 10**9 else NONE} {wnid or NONE}"
    return ""


def key_of(entry: Entry) -> tuple[str, str]:
    """The key and the extension of a member, in lower case; "" and "" where it has none."""
    found = KEY.fullmatch(entry.name)
    return (found[1], found[2].lower()) if found else ("", "")


def _wnid(name: str) -> str:
    """The last wnid in a name; "" for none."""
    return next(reversed(WNID.findall(name)), "")


def samples(
    archive: Path, name: str, entries: Iterable[Entry], aside: LeftAside, unused: set[str]
) -> Iterator[Sample]:
    """Yield the samples of an archive that have an image and a label.

    Args:
        archive: for messages.
        name: of the archive, from the source's root.
        entries: its members.
        aside: receives what is no sample.
        unused: receives the extensions of members that are neither image nor label.

    Raises:
        UserError: a key comes again later, or a sample has two images or labels that contradict each other.
    """
    seen: set[str] = set()
    for key, grouped in groupby(_members(name, entries, aside), lambda entry: key_of(entry)[0]):
        if key in seen:
            raise UserError(
                f"{archive} has members of the key {key} in two places: the members of a sample must follow "
                "each other, and a key may come once"
            )
        seen.add(key)
        by_extension: dict[str, Entry] = {}
        for entry in grouped:
            if by_extension.setdefault(key_of(entry)[1], entry) is not entry:
                raise UserError(f"{archive} has two members {entry.name}: a key may come once")
        images = [entry for entry in by_extension.values() if is_image_name(entry.name)]
        unused |= by_extension.keys() - {key_of(entry)[1] for entry in images} - {"cls", "json"}
        if len(images) > 1:
            both = " and ".join(image.name for image in images[:2])
            raise UserError(f"{archive} has two images in one sample, {both}: it must have one")
        label, wnid = _label(archive, key, by_extension)
        if not images:
            aside.ignore(f"{name}/{key}", "a sample without an image")
        elif label is None or label < 0:
            aside.ignore(f"{name}/{images[0].name}", "without a label")
        else:
            yield Sample(images[0], label, wnid)


def _members(name: str, entries: Iterable[Entry], aside: LeftAside) -> Iterator[Entry]:
    """Yield the members with a key; leave the others aside."""
    for entry in entries:
        if hidden := hidden_part(entry.name):
            aside.hidden.add(f"{name}/{hidden}")
        elif entry.strange or not key_of(entry)[0]:
            aside.ignore(f"{name}/{entry.name}", entry.strange or "a name without a key and an extension")
        else:
            yield entry


def _label(archive: Path, key: str, by_extension: dict[str, Entry]) -> tuple[int | None, str]:
    """The label of a sample, None where it has none, and its wnid.

    Raises:
        UserError: it is no whole number, or contradicts itself.
    """
    cls = by_extension["cls"].text if "cls" in by_extension else NONE
    in_json, _, filed = (by_extension["json"].text if "json" in by_extension else "").partition(" ")
    if cls != NONE and not NUMBER.fullmatch(cls):
        raise UserError(
            f"{archive} has {cls} in {key}.cls, and a label must be a whole number: write the archives with "
            "the number of the class in .cls"
        )
    numbers = [int(text) for text in (cls, in_json) if text not in ("", NONE)]
    if len(set(numbers)) > 1:
        raise UserError(
            f"{archive} has the label {numbers[0]} in {key}.cls and {numbers[1]} in {key}.json: get it again"
        )
    wnids = [wnid for wnid in (_wnid(key), filed) if wnid not in ("", NONE)]
    if len(set(wnids)) > 1:
        raise UserError(
            f"{archive} has the wnid {wnids[0]} in the key {key} and {wnids[1]} in {key}.json: get it again"
        )
    return next(iter(numbers), None), next(iter(wnids), "")
