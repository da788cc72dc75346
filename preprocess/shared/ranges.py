"""Allowed ranges of numbers: written next to a dataclass's field, or as the type of a flag of argparse.

    dropout: Annotated[float, Range("[0, 1)")] = 0.5

`wrong_number` finds the first field that is outside of its range. NaN is outside of every range.
"""

from __future__ import annotations

import argparse
import dataclasses
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints


@dataclass(frozen=True)
class Range:
    """An interval, written as in mathematics: "[0, 1)" has 0 and not 1. Both ends are finite."""

    interval: str

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number; whole ones are exact."""
        least, most = (part.strip("[]() ") for part in self.interval.split(","))
        return _number(least), _number(most)

    def __contains__(self, value: Any) -> bool:
        least, most = self.ends
        above = value > least if self.interval[0] == "(" else value >= least
        below = value < most if self.interval[-1] == ")" else value <= most
        return bool(above and below)

    def __str__(self) -> str:
        least, most = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in self.ends)
        above = "above" if self.interval[0] == "(" else "at least"
        below = "below" if self.interval[-1] == ")" else "at most"
        return f"{above} {least} and {below} {most}"


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        number = float(text)
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


Count = Annotated[int, Range("[1, 1e6]")]
SEEDS = "[0, 9223372036854775807]"  # int64: compiled code takes no larger ones
Seed = Annotated[int, Range(SEEDS)]


def wrong_number(settings: Any) -> str:
    """Name the first field of a dataclass that is no number of its range, in a sentence; "" if there is none.

    None is allowed where the field's type has it. Each number of a tuple is checked.
    """
    for name, (allowed, types) in ranges_of(settings.__class__).items():
        value = getattr(settings, name)
        if value is None and type(None) in types:
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if wrong := _refusal(number, allowed, whole=int in types):
                return f"--{name.replace('_', '-')} must be {wrong}."
    return ""


def _refusal(number: Any, allowed: Range, whole: bool) -> str:
    kind = numbers.Integral if whole else numbers.Real
    if not isinstance(number, kind) or isinstance(number, bool):
        return f"a {'whole ' * whole}number, not {number!r}"
    return "" if number in allowed else f"{allowed}, not {number}"


@cache
def ranges_of(kind: Any) -> dict[str, tuple[Range, list[Any]]]:
    """By field of a dataclass that has a range: that, and the types in the field's annotation."""
    hints, found = get_type_hints(kind, include_extras=True), {}
    for field in dataclasses.fields(kind):
        parts = _parts(hints[field.name])
        for part in parts:
            if isinstance(part, Range):
                found[field.name] = part, parts
    return found


def _parts(hint: Any) -> list[Any]:
    """A type and all types and annotations within it."""
    return [hint, *(inner for part in get_args(hint) for inner in _parts(part))]


def argument(kind: type[int] | type[float], interval: str) -> Callable[[str], float]:
    """A type for argparse's add_argument, whose message has the allowed range."""
    allowed = Range(interval)

    def convert(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = text  # type: ignore[assignment]
        if wrong := _refusal(number, allowed, whole=kind is int):
            raise argparse.ArgumentTypeError(f"must be {wrong}")
        return number

    return convert
