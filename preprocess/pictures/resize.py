"""Resizes the shorter side and crops the central square: the bytes of Pillow's own calls, with less memory.

Pillow resizes along the rows, rounds to 8 bits, and resizes along the columns. Within a pass each row or
column is independent of the others. So columns outside the crop need no second pass, and a large result
can be made in strips.

_square.c decodes and resizes a JPEG line by line with the arithmetic of Pillow-SIMD, which has weights of 16
bits. Plain Pillow has more bits, and some of its pixels differ by one. So _square.c is used with Pillow-SIMD
alone.
"""

from typing import NamedTuple

import PIL
from PIL import Image

try:
    import preprocess.pictures._square as _square
except ImportError:  # not built: this folder was never installed
    _square = None  # type: ignore[assignment]

SIMD = "post" in PIL.__version__  # Pillow-SIMD's versions are such as 12.1.1.post0
COMPILED = SIMD and _square is not None
BICUBIC = Image.Resampling.BICUBIC
STRIP = 2**24  # most pixels (4 bytes each) of a result before it is cropped


def resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height for a shorter side of `side`: round(length * side / shorter), halves up."""
    shorter = min(size)
    width, height = ((2 * length * side + shorter) // (2 * shorter) for length in size)
    return width, height


class Square(NamedTuple):
    """The central square of a JPEG."""

    pixels: bytes
    """uint8 [side, side, 3]."""
    size: tuple[int, int]
    """Width and height of the original."""
    grey: bool
    """Whether the original has one channel."""
    marked: bool
    """Whether the file has Exif data or further images, which Pillow must look at."""


def square_of_jpeg(data: bytes, side: int, most: int) -> Square | None:
    """Decode a JPEG of at most `most` pixels and make its central square, as `resize_and_crop` does.

    Returns None where Pillow must do it, or report the error: no JPEG, damage, four channels, too large.
    """
    made = _square.square(data, side, most, STRIP, False) if COMPILED else None
    return made and Square(*made)


def resize_and_crop(image: Image.Image, side: int, shown: tuple[int, int] | None = None) -> Image.Image:
    """The central side x side pixels of the image, its shorter side resized to `side`.

    `shown` is the original size where the decoder has shrunk the image, by 2, 4 or 8, rounded up.
    """
    width, height = resized_size(shown or image.size, side)
    left, top = (width - side) // 2, (height - side) // 2
    if shown and shown != image.size:
        scale = round(shown[0] / image.width)
        box = (0, 0, shown[0] / scale, shown[1] / scale)  # the last pixels may be outside in part
        image = image.resize((width, height), BICUBIC, box)
        return image.crop((left, top, left + side, top + side))
    if width * height <= STRIP:
        if width <= height:
            return image.resize((width, height), BICUBIC).crop((left, top, left + side, top + side))
        rows = image.resize((width, image.height), BICUBIC)
        return rows.crop((left, 0, left + side, image.height)).resize((side, side), BICUBIC)
    rows = _along_rows(image, width, left, side)
    columns = rows.transpose(Image.Transpose.TRANSPOSE)
    return _along_rows(columns, height, top, side).transpose(Image.Transpose.TRANSPOSE)


def _along_rows(image: Image.Image, width: int, left: int, side: int) -> Image.Image:
    """Resize the rows to `width`, in strips, and keep `side` columns from `left` on."""
    result = Image.new(image.mode, (side, image.height))
    step = max(1, STRIP // max(width, image.width))
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        resized = strip.resize((width, strip.height), BICUBIC)
        result.paste(resized.crop((left, 0, left + side, strip.height)), (0, top))
    return result
