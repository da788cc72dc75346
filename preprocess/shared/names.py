"""Names from outside, of files, folders and classes, as a screen, a page or a log can show them."""

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

JOINERS = "\u200c\u200d"  # zero-width (non-)joiners: not printable by themselves, and part of words and signs


def shown(text: object) -> str:
    r"""The text with escapes for what no screen shows: a byte that is no UTF-8 as \xe9, control characters
    and marks of writing direction as \x1b and \u202e."""
    found = str(text)
    if found.isprintable():
        return found
    return "".join(c if c.isprintable() or c in JOINERS else _escape(c) for c in found)


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00  # where Python keeps a byte that it cannot decode (PEP 383)
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def cell(text: object) -> "Text":
    """For a table on the screen: nothing in the text is markup or a code of an emoji."""
    from rich.text import Text  # needed for tables alone

    return Text(shown(text))


def print_any_character() -> None:
    """From now on stdout and stderr escape what their encoding does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
