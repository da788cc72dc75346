"""Reads protobuf's wire format: the fields of a message by their numbers, without a schema or copies.

A message is a sequence of fields. Each begins with a key, a varint: number * 8 + wire type. The value is a
varint (wire type 0), 8 bytes (1), a length and so many bytes (2: text, a message, a packed array), or 4 bytes
(5). Numbers are little-endian. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.shared import names

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
SIZES = {FIXED64: 8, FIXED32: 4}
MOST_FIELDS = 100_000
"""Of one message. Networks have some hundreds; a file of noise could have one in every two bytes."""
MOST_CHARACTERS = 1_000

Value = int | memoryview
"""A varint, or the bytes of any other value."""


class WireError(ValueError):
    """The bytes are no such message; the message is a clause."""


def open_file(path: Path) -> Message:
    """The message that a whole file holds; its bytes are mapped, not read. Raises WireError."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise WireError("it is empty")
        return Message(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


class Message:
    """The fields of one message; those of messages inside are read when they are asked for.

    Every method raises WireError where the field has another wire type. Of a field that is there several
    times and should be once, the last one counts.
    """

    def __init__(self, data: memoryview) -> None:
        self._values: dict[int, list[Value]] = {}
        for count, (number, value) in enumerate(_fields(data)):
            if count == MOST_FIELDS:
                raise WireError(f"it has a message of more than {MOST_FIELDS:,} fields")
            self._values.setdefault(number, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def is_message(self, number: int) -> bool:
        """Whether a field is there and has bytes, as messages, texts and packed arrays have."""
        return any(isinstance(value, memoryview) for value in self._values.get(number, ()))

    def integer(self, number: int, default: int = 0) -> int:
        """An integer, an enum or a bool."""
        return self.integers(number)[-1] if number in self else default

    def integers(self, number: int) -> list[int]:
        """A repeated integer, packed or not."""
        found: list[int] = []
        for value in self._values.get(number, ()):
            found += [value] if isinstance(value, int) else _varints(value)
        return [value - 2**64 if value >= 2**63 else value for value in found]

    def number(self, number: int, default: float) -> float:
        """A float32, as the shortest decimal that rounds to it: 0.0001, not 9.99999975e-05."""
        found = self.floats(number)
        return float(str(found[-1])) if len(found) else default

    def floats(self, number: int, dtype: str = "<f4") -> NDArray[np.floating]:
        """A repeated float32 ("<f4") or float64 ("<f8"), packed or not: a view where it is in one piece."""
        parts = []
        for data in self._bytes(number):
            if len(data) % np.dtype(dtype).itemsize:
                raise WireError(f"field {number} has {len(data)} bytes, which are no whole numbers")
            parts.append(np.frombuffer(data, dtype))
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])

    def bytes(self, number: int) -> memoryview | None:
        """Bytes; None where there are none."""
        found = self._bytes(number)
        return found[-1] if found else None

    def text(self, number: int) -> str:
        """A string; empty where there is none."""
        return self.texts(number)[-1] if number in self else ""

    def texts(self, number: int) -> list[str]:
        """A repeated string, as a screen can show it."""
        found = self._bytes(number)
        if any(len(data) > MOST_CHARACTERS for data in found):
            raise WireError(f"a name has more than {MOST_CHARACTERS:,} characters")
        return [names.shown(str(data, "utf-8", "replace")) for data in found]

    def message(self, number: int) -> Message:
        """A message inside; one without fields where there is none."""
        found = self._bytes(number)
        return Message(found[-1] if found else memoryview(b""))

    def messages(self, number: int) -> list[Message]:
        """A repeated message."""
        return [Message(data) for data in self._bytes(number)]

    def _bytes(self, number: int) -> list[memoryview]:
        found = self._values.get(number, [])
        data = [value for value in found if isinstance(value, memoryview)]
        if len(data) < len(found):
            raise WireError(f"field {number} is an integer and should be bytes")
        return data


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not number or kind not in (VARINT, LENGTH, *SIZES):
            raise WireError(f"it has a field {number} of wire type {kind}")
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = SIZES.get(kind)
        if size is None:
            size, at = _varint(data, at)
        if size > len(data) - at:
            raise WireError(f"it ends {size - len(data) + at:,} bytes too early, within field {number}")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins there, of at most 64 bits, 7 bits a byte; and where it ends."""
    found = 0
    for place in range(10):
        if at + place == len(data):
            raise WireError("it ends within a number")
        byte = data[at + place]
        found |= (byte & 127) << 7 * place
        if byte < 128:
            return found & 2**64 - 1, at + place + 1
    raise WireError("it has a number of more than 64 bits")


def _varints(data: memoryview) -> list[int]:
    found, at = list[int](), 0
    while at < len(data):
        value, at = _varint(data, at)
        if len(found) == MOST_FIELDS:
            raise WireError(f"it has an array of more than {MOST_FIELDS:,} integers")
        found.append(value)
    return found
