"""The classes of another program's network, in the order of its outputs."""

from __future__ import annotations

import re
from pathlib import Path

from preprocess.store import in_words
from trainer.errors import UserError

WORDNET_ID = re.compile(r"(n\d{8})(?:[ \t,]+(.*))?")
MOST_BYTES = 2**24


def read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The classes of a text file of one class a line, and their names in words where it has them.

    A line is a class, or a WordNet ID and words, as in Caffe's synset_words.txt. Raises UserError.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is no list of classes: it has more than {MOST_BYTES:,} bytes.")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"The classes in {path} cannot be read: {reason}.") from None
    lines = [line for line in lines if line]
    matches = [WORDNET_ID.fullmatch(line) for line in lines]
    ids = [match[1] if match else line for match, line in zip(matches, lines, strict=True)]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{path} has the class {twice} twice; it must have one class a line.")
    if all(match and match[2] for match in matches):
        return tuple(ids), tuple(match[2] for match in matches if match)
    return tuple(ids), in_words(ids)
