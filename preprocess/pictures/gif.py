"""The first image of a GIF (GIF89a specification, sections 15 to 27).

A decoder collects comments and counts images, which takes long for a file made for that. So the file is cut.
"""

from preprocess.errors import UnreadableError

SCREEN = 13  # bytes: the signature and the logical screen descriptor
EXTENSION, CONTROL, IMAGE = 0x21, 0xF9, 0x2C
DESCRIPTOR = 10  # bytes of an image before its colour table
MOST_BLOCKS = 2**21  # twice as many as 256 MiB of full blocks


def first_image(data: bytes) -> tuple[bytes, bool]:
    """A GIF with the first image alone, and whether there were more. Raises UnreadableError."""
    if len(data) < SCREEN:
        raise UnreadableError("is cut off")
    control, first = b"", b""
    blocks = _Blocks(data)
    place = screen = SCREEN + _colour_table(data[10])
    while place + DESCRIPTOR < len(data) and data[place] in (EXTENSION, IMAGE):
        begin = place
        if data[place] == EXTENSION:
            place = blocks.end(place + 2)
            if data[begin + 1] == CONTROL:
                control = data[begin:place]
        elif first:
            return first, True
        else:
            place = blocks.end(place + DESCRIPTOR + _colour_table(data[place + 9]) + 1)
            first = data[:screen] + control + data[begin:place]
    return first or data[:screen], False


def _colour_table(flags: int) -> int:
    """The length in bytes of the colour table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class _Blocks:
    """Walks over chains of blocks: each has a byte with its length, and an empty one ends the chain."""

    def __init__(self, data: bytes) -> None:
        self._data, self._left = data, MOST_BLOCKS

    def end(self, place: int) -> int:
        """The place after the chain that begins at `place`. Raises UnreadableError for too many blocks."""
        data = self._data
        while place < len(data) and data[place]:
            place += data[place] + 1
            self._left -= 1
            if not self._left:
                raise UnreadableError(f"is a GIF of more than {MOST_BLOCKS} blocks")
        return place + 1
