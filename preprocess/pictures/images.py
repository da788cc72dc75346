"""Bytes of an image file -> uint8 [size, size, 3], 0..255, RGB. Pure: no files, no Dask, no zarr.

The content decides the format, not the name. Every conversion to RGB and every oddity is reported as a
repair. The conventions are those usual for ImageNet:

- EXIF is ignored, its orientation too, unless `upright` asks for that; HEIF has a turn of its own, which is
  a part of the image;
- CMYK is taken as inverted, as Adobe writes it and browsers read it;
- alpha is dropped, not blended;
- of 16 bits the upper 8 are kept;
- of several images in a file the first is taken.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocess.errors import UnreadableError
from preprocess.pictures.exif import UPRIGHT, orientation
from preprocess.pictures.formats import open_image
from preprocess.pictures.limits import MAX_PIXELS, refuse_too_large
from preprocess.pictures.resize import resize_and_crop, square_of_jpeg
from preprocess.shared.image_files import FORMATS

SUFFIXES = {**FORMATS, "MPO": FORMATS["JPEG"]}
DRAFT = 2  # the decoder's own downscaling leaves at least so many times the result's side
TINY = 8  # pixels: a shorter side below it is reported
PANORAMA = 8  # longer to shorter side: a larger ratio is reported, for most of the image is cropped away
DEPTH_BYTE = 24  # offset of the bits per channel in a PNG

TURNS = dict(  # by EXIF orientation (Exif 2.32, 4.6.4): what makes the image upright
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)

# The repair of each of Pillow's modes; RGB needs none. The words of repairs and of UnreadableError are
# written into the store's attributes: other words would be other bytes.
GREY = "greyscale"
REPAIRS = {
    "1": "bilevel",
    "L": GREY,
    "LA": "greyscale with alpha",
    "I;16": "16-bit greyscale",
    "I;16B": "16-bit greyscale",
    "I": "16-bit greyscale",
    "P": "palette",
    "PA": "palette",
    "RGBA": "alpha",
    "CMYK": "CMYK",
}

# `convert` refuses such images
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Converted(NamedTuple):
    """The central square of an image."""

    pixels: NDArray[np.uint8]
    """uint8 [size, size, 3]."""
    repairs: tuple[str, ...]
    """() for an ordinary image."""
    shorter: int
    """The shorter side of the original, pixels."""


def convert(
    data: bytes, name: str, size: int, draft: bool = False, upright: bool = False
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The pixels and the repairs of `square`. Raises UnreadableError as it does."""
    return square(data, name, size, draft, upright)[:2]


def square(data: bytes, name: str, size: int, draft: bool = False, upright: bool = False) -> Converted:
    """Make the central square of an image, its shorter side resized to `size`.

    Args:
        data: the file's content.
        name: the file's name; its suffix is compared with the content.
        size: side of the result in pixels.
        draft: let the JPEG decoder shrink large images by 2, 4 or 8, to DRAFT * size at least.
        upright: turn the image as its EXIF orientation says, before it is resized.

    Raises:
        UnreadableError: the bytes are no complete image of a format that is read, or it is too large.
    """
    suffix = PurePath(name).suffix
    with _as_unreadable():
        made = None if draft else square_of_jpeg(data, size, MAX_PIXELS)
        if made and not made.marked:  # Pillow would report nothing more
            refuse_too_large(*made.size)
            pixels, shown = made.pixels, made.size
            repairs = _wrong_suffix("JPEG", suffix) + [GREY] * made.grey + _odd_shape(*made.size)
        elif made and not (upright and _turn(open_image(data)) is not None):
            pixels, shown = made.pixels, made.size
            repairs = _repairs(open_image(data), data, suffix, upright)
        else:
            image = open_image(data)
            shown = image.size
            if draft and not (upright and _turn(image) is not None):
                image.draft(None, (DRAFT * size, DRAFT * size))
            image.load()
            repairs = _repairs(image, data, suffix, upright)
            rgb = _to_rgb(image)
            if upright and (turn := _turn(image)) is not None:
                rgb = rgb.transpose(turn)
                shown = rgb.size
            pixels = resize_and_crop(rgb, size, shown).tobytes()
    # np.asarray(image) takes twice as long
    return Converted(np.frombuffer(pixels, np.uint8).reshape(size, size, 3), tuple(repairs), min(shown))


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Turn every exception of the decoder into UnreadableError."""
    try:
        yield
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableError("is damaged: its header cannot be read") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"has more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # damaged bytes raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise UnreadableError(str(error) or type(error).__name__) from error


def _wrong_suffix(format: str, suffix: str) -> list[str]:
    known = not suffix or suffix.lower() in SUFFIXES[format]
    return [] if known else [f"{format} in a {suffix}"]


def _odd_shape(width: int, height: int) -> list[str]:
    found = []
    if min(width, height) < TINY:
        found.append(f"less than {TINY} pixels")
    if max(width, height) > PANORAMA * min(width, height):
        found.append("panorama")
    return found


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright; None where it is, or where its EXIF data are damaged."""
    try:
        return TURNS.get(orientation(image.info["exif"])) if "exif" in image.info else None
    except ValueError:
        return None


def _repairs(image: Image.Image, data: bytes, suffix: str, upright: bool) -> list[str]:
    """The conversions and oddities of an image that can be decoded."""
    found = _wrong_suffix(str(image.format), suffix)
    mode = image.info.get("mode", image.mode)  # a decoder may have converted it
    if mode == "CMYK" and image.format in ("JPEG", "MPO"):
        inks = {0: "CMYK", 2: "YCCK"}.get(image.info.get("adobe_transform", -1), "CMYK without Adobe's mark")
        found.append(inks)
    elif mode != "RGB":
        found.append(REPAIRS.get(mode, f"mode {mode}"))
    bits = data[DEPTH_BYTE] if image.format == "PNG" else image.info.get("bits")
    if bits == 16 and not mode.startswith("I"):
        found.append("16-bit colour" if mode.startswith("RGB") else "16-bit greyscale")
    if image.format in ("PNG", "GIF") and "transparency" in image.info:
        found.append("transparent colour")
    if image.info["several"] if "several" in image.info else getattr(image, "n_frames", 1) > 1:
        found.append("first of several pictures")
    if "exif" in image.info:
        try:
            if (turned := orientation(image.info["exif"])) != UPRIGHT:
                done = "applied" if upright and turned in TURNS else "ignored"
                found.append(f"EXIF orientation {done}")
        except ValueError:
            found.append("corrupt EXIF")
    return found + _odd_shape(*image.size)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
