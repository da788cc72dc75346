"""Expands braces as a shell does: shard-{0000..1023}.tar, {train-{0..9},val-{0..3}}.tar."""

import re
from collections.abc import Iterator

RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def has_braces(text: str) -> bool:
    """Whether a text has a range or alternatives in braces."""
    return next(expand(text)) != text


def expand(text: str) -> Iterator[str]:
    """Yield the texts that a text with braces stands for, lazily: they may be very many."""
    for begin in (place for place, character in enumerate(text) if character == "{"):
        pieces, end = _alternatives(text, begin)
        ranged = RANGE.fullmatch(pieces[0]) if len(pieces) == 1 else None
        if ranged or len(pieces) > 1:
            for choice in _numbers(*ranged.groups()) if ranged else pieces:
                for middle in [choice] if ranged else expand(choice):
                    for rest in expand(text[end:]):
                        yield text[:begin] + middle + rest
            return
    yield text


def _alternatives(text: str, begin: int) -> tuple[list[str], int]:
    """What is between the commas in the braces that open at `begin`, and where these braces end.

    One piece, which is empty, stands for braces that do not close.
    """
    depth, start, pieces = 0, begin + 1, []
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0 or (depth == 1 and text[place] == ","):
            pieces.append(text[start:place])
            start = place + 1
        if depth == 0:
            return pieces, start
    return [""], len(text)


def _numbers(first: str, last: str) -> Iterator[str]:
    """The numbers of a range; where one has leading zeros, all have the width of the longer one."""
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(last) >= int(first) else -1
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))
