"""Opens a WebP (RFC 9649) by Pillow, or by imagecodecs where Pillow was built without WebP."""

import io
import struct
from collections.abc import Iterator

from PIL import Image, features

from preprocess.errors import UnreadableError
from preprocess.pictures.limits import refuse_too_large

FIRST = 20  # where the content of the first chunk begins
REMEDY = "is WebP, which this Pillow does not read: install another decoder, `pip install imagecodecs`"


def open_webp(data: bytes) -> Image.Image:
    """Decode the first image. Raises as `formats.open_image`."""
    refuse_too_large(*_size(data))
    frames, exif = 0, b""
    for kind, begin, end in _chunks(data):
        frames += kind == b"ANMF"
        if kind == b"EXIF":
            exif = data[begin:end]
    image = _decoded(data)
    image.format = "WEBP"
    image.info = {"several": frames > 1, **({"exif": exif} if exif else {})}
    return image


def _size(data: bytes) -> tuple[int, int]:
    """Width and height, from the first chunk."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[place : place + 3], "little") for place in (24, 27))
        return width + 1, height + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, FIRST + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, FIRST + 6)
        return width & 0x3FFF, height & 0x3FFF
    raise UnreadableError("is a damaged WebP")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk, and where its content begins and ends."""
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        yield kind, place + 8, place + 8 + length
        place += 8 + length + length % 2


def _decoded(data: bytes) -> Image.Image:
    if features.check("webp"):
        image: Image.Image = Image.open(io.BytesIO(data), formats=("WEBP",))
        image.load()
        return image
    try:
        from imagecodecs import webp_decode
    except ImportError:
        raise UnreadableError(REMEDY) from None
    return Image.fromarray(webp_decode(data))
