"""Reads JSON that may be damaged: a value of the kind that is asked for, or an error of one clause.

A kind is a type as annotations have it: bool, int, float, str, Path, None, Any, unions, Literal, list, tuple,
dict with keys of text, a TypedDict (further keys are kept), or a dataclass (further keys are refused).
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")

LARGEST = 2**128
"""Numbers are smaller, as those of float32 are: arithmetic with them does not overflow."""
SCALARS = frozenset((bool, int, float, str, Path, types.NoneType))
SHOWN = 40  # characters of a wrong value in a message
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    types.NoneType: "null",
    list: "a list",
    tuple: "a list",
}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


STRICT = json.JSONDecoder(parse_constant=_refuse)


class JsonError(ValueError):
    """The message is a clause that begins with the name of the file: "state.json has no step"."""


class MissingError(JsonError):
    """There is no such file."""


def read(path: Path, kind: type[T], name: str = "") -> T:
    """Read a JSON file as `kind`.

    Args:
        name: of the file in the error's message; "" stands for its path.

    Raises:
        MissingError: there is no such file.
        JsonError: it cannot be read, is no JSON, lacks a key, or has a value of another kind.
    """
    name = name or str(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{name} is missing") from None
    except IsADirectoryError:
        raise JsonError(f"{name} is a folder, not a file") from None
    except OSError as error:
        raise JsonError(f"{name} cannot be read ({error.strerror})") from None
    return parse(data, kind, name)


def parse(data: bytes | str, kind: type[T], name: str) -> T:
    """Read JSON text as `kind`; NaN and Infinity are no JSON. Raises JsonError."""
    try:
        value = STRICT.decode(data.decode() if isinstance(data, bytes) else data)
    except UnicodeDecodeError:
        raise JsonError(f"{name} is not UTF-8 text") from None
    except RecursionError:
        raise JsonError(f"{name} is nested too deeply") from None
    except ValueError:
        raise JsonError(f"{name} is not JSON") from None
    return convert(value, kind, name)


def convert(value: Any, kind: type[T], name: str) -> T:
    """Convert a value of JSON to `kind`: tuples, paths and dataclasses are made. Raises JsonError."""
    converted: T = _convert(value, kind, name, "")
    return converted


def _convert(value: Any, kind: Any, name: str, key: str) -> Any:
    if kind is Any or (kind is str and type(value) is str):
        return value
    if kind in SCALARS:
        if not _is_scalar(value, kind):
            raise _wrong(value, kind, name, key)
        return Path(value) if kind is Path else value
    if keys := _keys(kind):
        return _object(value, kind, keys, name, key)
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in inner):
            raise _wrong(value, kind, name, key)
        return value
    if origin in (Union, types.UnionType):
        for choice in inner:
            try:
                return _convert(value, choice, name, key)
            except JsonError:
                continue
        raise _wrong(value, kind, name, key)
    if origin is dict and isinstance(value, Mapping):
        return {k: _convert(v, inner[1], name, f"{key}.{k}" if key else k) for k, v in value.items()}
    if origin is dict or not isinstance(value, list | tuple):
        raise _wrong(value, kind, name, key)
    if origin is list or inner[-1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        raise _wrong(value, kind, name, key)
    return origin(_convert(v, k, name, key) for v, k in zip(value, inner, strict=True))


def _object(value: Any, kind: Any, keys: "_Keys", name: str, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(value, kind, name, key)
    above = f"{key}." if key else ""
    for missing in keys.required:
        if missing not in value:
            raise JsonError(f"{name} has no {above}{missing}")
    made = {
        k: _convert(v, keys.kinds[k], name, above + k) if k in keys.kinds else v for k, v in value.items()
    }
    if not keys.closed:
        return made
    for unknown in made.keys() - keys.kinds.keys():
        raise JsonError(f"{name} has an unknown key: {above}{unknown}")
    return kind(**made)


class _Keys(typing.NamedTuple):
    kinds: dict[str, Any]
    required: tuple[str, ...]
    closed: bool  # whether further keys are refused


@functools.cache
def _keys(kind: Any) -> _Keys | None:
    """The keys of a TypedDict or a dataclass; None for any other kind."""
    if typing.is_typeddict(kind):
        return _Keys(typing.get_type_hints(kind), tuple(sorted(kind.__required_keys__)), closed=False)
    if not dataclasses.is_dataclass(kind):
        return None
    needed = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is f.default_factory is dataclasses.MISSING  # each of them has neither
    ]
    return _Keys(typing.get_type_hints(kind), tuple(needed), closed=True)


def _is_scalar(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        return type(value) in (int, kind) and abs(value) < LARGEST  # NaN is not
    return type(value) is (str if kind is Path else kind)


def _wrong(value: Any, kind: Any, name: str, key: str) -> JsonError:
    if not key:
        return JsonError(f"{name} is not {_words(kind)}")
    shown = WORDS.get(type(value), "an object")
    if not isinstance(value, list | tuple | Mapping):
        text = json.dumps(value)
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return JsonError(f"{name} has {key} = {shown}, which is not {_words(kind)}")


def _words(kind: Any) -> str:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is Literal:
        return " or ".join(map(json.dumps, inner))
    words = WORDS.get(origin, "an object")
    of = f" of {_words(inner[0])}" if inner and words == "a list" else ""
    return words + of.replace(" of a whole number", " of whole numbers").replace(
        " of a number", " of numbers"
    )
