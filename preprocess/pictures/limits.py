"""The largest images that are decoded. Each format's header is held against these before pixels are made."""

from preprocess.errors import UnreadableError

MAX_PIXELS = 89_478_485  # 256 MiB of RGB: Pillow warns of a decompression bomb there; here it is an error
MAX_RATIO = 8192  # longer to shorter side; such an image takes seconds and 200 MiB


def refuse_too_large(width: int, height: int) -> None:
    """Raise UnreadableError for an image with too many pixels, or with too long a side."""
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"{width}x{height} pixels are more than {MAX_PIXELS}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UnreadableError(f"{width}x{height} pixels: one side is more than {MAX_RATIO} times the other")
