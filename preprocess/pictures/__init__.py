"""Images as the store has them: `convert` makes uint8 [size, size, 3] of the bytes of a JPEG or PNG."""

from preprocess.pictures.images import UnreadableError, convert

__all__ = ["UnreadableError", "convert"]
