"""Pillow's own antialiased resize of the shorter side and central crop, without gigabytes for panoramas.

Pillow resizes along rows first and along columns then, and rounds to 8 bit in between. Within a pass every
row, or column, stands for itself. So columns that the crop throws away need no second pass, and a large
result can be made a strip at a time: the pixels are byte for byte those of the plain calls.

_square.c decodes and resizes a JPEG line by line, with the arithmetic of Pillow-SIMD, whose weights have 16
bits. Those of plain Pillow have more, and now and then a pixel differs by one: beside it Pillow does all.
"""

from typing import NamedTuple

import PIL
from PIL import Image

try:
    from preprocess.pictures import _square
except ImportError:  # not built: preprocess runs from a folder that was never installed
    _square = None  # type: ignore[assignment]

SIMD = "post" in PIL.__version__  # that is how Pillow-SIMD counts
COMPILED = SIMD and _square is not None
BICUBIC = Image.Resampling.BICUBIC
STRIP = 2**24  # pixels (4 bytes each) that are made at a time before they are cropped


def resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height when the shorter one becomes `side`: round(length * side / shorter), halves up."""
    shorter = min(size)
    width, height = ((2 * length * side + shorter) // (2 * shorter) for length in size)
    return width, height


class Square(NamedTuple):
    """What became of a JPEG."""

    pixels: bytes
    """uint8 [side, side, 3]."""
    size: tuple[int, int]
    """Width and height of the picture."""
    grey: bool
    """One channel, now thrice."""
    marked: bool
    """It has Exif, or further pictures behind it."""


def square_of_jpeg(data: bytes, side: int, most: int) -> Square | None:
    """Decode a JPEG of at most so many pixels, and do as `resize_and_crop`.

    None where only Pillow can do it, or can say what is wrong: no JPEG, damaged, four channels, too large.
    """
    made = _square.square(data, side, most, STRIP, False) if COMPILED else None
    return made and Square(*made)


def resize_and_crop(image: Image.Image, side: int, shown: tuple[int, int] | None = None) -> Image.Image:
    """The central side x side of the picture, its shorter side brought to `side`.

    `shown` is the picture's own size where the decoder has shrunk it, by 2, 4 or 8 and up to whole pixels.
    """
    width, height = resized_size(shown or image.size, side)
    left, top = (width - side) // 2, (height - side) // 2
    if shown and shown != image.size:
        scale = round(shown[0] / image.width)
        box = (0, 0, shown[0] / scale, shown[1] / scale)  # of the last pixels a part may lie outside
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
    """The columns from `left` on, `side` of them, of the picture brought to `width`; its height stays."""
    result = Image.new(image.mode, (side, image.height))
    step = max(1, STRIP // max(width, image.width))
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        resized = strip.resize((width, strip.height), BICUBIC)
        result.paste(resized.crop((left, 0, left + side, strip.height)), (0, top))
    return result
