"""Images as the store has them: `convert` makes uint8 [size, size, 3] of the bytes of an image file."""

from preprocess.errors import UnreadableError
from preprocess.pictures.images import convert
from preprocess.shared.image_files import MAX_BYTES

__all__ = ["MAX_BYTES", "UnreadableError", "convert"]
