"""Bytes of a JPEG or PNG -> uint8 [size, size, 3], 0..255, RGB. Pure: no files, no Dask, no zarr.

The shorter side becomes `size` by Pillow's antialiased bicubic resize, the longer side keeps the aspect
ratio, rounded to the nearest pixel (half a pixel up); then the central square is cut out, its offset
rounded down. What a picture is, its content says and not its name. EXIF, orientation included, is ignored,
as everywhere for ImageNet. What had to be done to make RGB of a picture is named, never silent.
"""

import io
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SUFFIXES = {"JPEG": {".jpg", ".jpeg"}, "MPO": {".jpg", ".jpeg"}, "PNG": {".png"}}
MAX_PIXELS = 89_478_485  # Pillow's own threshold for a decompression bomb, here an error: 256 MiB of RGB

# How Pillow's modes are named in the list of repairs. RGB needs none.
REPAIRS = {
    "1": "bilevel",
    "L": "greyscale",
    "LA": "greyscale with alpha",
    "I;16": "16-bit greyscale",
    "I": "16-bit greyscale",
    "P": "palette",
    "RGBA": "alpha",
    "CMYK": "CMYK",
}


class UnreadableError(Exception):
    """A picture of which nothing can be made; the message says why."""


def convert(data: bytes, name: str, size: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Make the picture that the network reads, and name the repairs that it took.

    Args:
        data: the file's content.
        name: the file's name; its suffix is compared with the content.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3], and the repairs, () for a sound picture.

    Raises:
        UnreadableError: the bytes are no whole JPEG or PNG, or one too large to be honest.
    """
    image, repairs = decode(data, name)
    return np.asarray(resize_and_crop(image, size)), repairs


def decode(data: bytes, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode to mode RGB; return the repairs too. Raises UnreadableError."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
        image.load()
    except UnreadableError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything: OSError, SyntaxError, struct.error, ...
        reason = "is neither JPEG nor PNG" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UnreadableError(reason) from error
    repairs = []
    suffix = PurePath(name).suffix
    if suffix.lower() not in SUFFIXES[str(image.format)]:
        repairs.append(f"{image.format} in a {suffix or 'file without suffix'}")
    if image.mode != "RGB":
        repairs.append(REPAIRS.get(image.mode, f"mode {image.mode}"))
    return _to_rgb(image), tuple(repairs)


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The central size x size of the picture, its shorter side brought to `size`."""
    shorter = min(image.size)
    # round(side * size / shorter) in whole numbers; the shorter side comes out as exactly `size`
    width, height = ((2 * side * size + shorter) // (2 * shorter) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I"):  # Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
