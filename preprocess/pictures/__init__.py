"""Images as the store has them: `convert` makes uint8 [size, size, 3] of the bytes of a JPEG or PNG."""

from preprocess.pictures.images import MAX_BYTES, UnreadableError, convert

__all__ = ["MAX_BYTES", "UnreadableError", "convert"]
