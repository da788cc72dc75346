"""The classes of ILSVRC-2012 in words, for sources that name them by their WordNet IDs alone."""

from collections.abc import Sequence
from pathlib import Path

TABLE = Path(__file__).with_name("ilsvrc2012_names.txt")


def ilsvrc2012() -> tuple[str, ...]:
    """The WordNet IDs of the 1,000 classes in their order, which is that of the outputs of most networks."""
    return tuple(sorted(_table()))


def in_words(classes: Sequence[str]) -> tuple[str, ...] | None:
    """The names of the classes, such as "tench, Tinca tinca" for n01440764.

    A class that is not in ILSVRC-2012 keeps its name. None: no class is.
    """
    names = _table()
    return tuple(names.get(name, name) for name in classes) if names.keys() & set(classes) else None


def _table() -> dict[str, str]:
    """WordNet ID -> its words."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if not line.startswith("#"))
