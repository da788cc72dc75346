"""What is in a folder or an archive."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A file in a folder, or a member of an archive."""

    name: str  # ends with / for a folder
    offset: int
    length: int
    strange: str = ""  # why it cannot be an image, such as "a link"
