"""What is in a folder or an archive."""

from typing import NamedTuple

LONGEST_NAME = 1024  # characters
LINK = "a link"
NO_NAME, ABSOLUTE, CLIMBS_OUT = "a name that no image has", "an absolute name", "a name that climbs out"
WRONG_NAMES = {NO_NAME, ABSOLUTE, CLIMBS_OUT}


class Entry(NamedTuple):
    """A file in a folder, or a member of an archive."""

    name: str  # ends with / for a folder
    offset: int
    length: int
    strange: str = ""  # why it cannot be an image, such as "a link"
    text: str = ""  # of a small member that holds a label


def checked_name(name: str) -> tuple[str, str]:
    """A member's name, shortened if it is the name of no file, and why it cannot be that of an image."""
    if len(name) > LONGEST_NAME or "\0" in name or "\n" in name:
        return repr(name[:40]), NO_NAME
    if name.startswith("/"):
        return name, ABSOLUTE
    return name, CLIMBS_OUT if ".." in name.split("/") else ""
