"""Opens the first image of a TIFF (TIFF 6.0) by Pillow, or by imagecodecs where Pillow has no libtiff.

Decoders read every directory and every tag. They disagree on a tag that is there twice, and they turn images
by themselves. So they get the same file with another directory at its end: the tags that say where the pixels
are, each once and held against the limits.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, features

from preprocess.errors import UnreadableError
from preprocess.pictures.exif import ORDERS, ORIENTATION
from preprocess.pictures.limits import MAX_PIXELS, refuse_too_large
from preprocess.shared.image_files import RAW, REMEDY, unreadable_format

KIND, WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS, FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
STRIPS, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANES, PREDICTOR, PALETTE = 273, 277, 278, 279, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, EXTRA, NUMBERS = 322, 323, 324, 325, 338, 339
JPEG_TABLES, SUBSAMPLING, DNG = 347, 530, 50706
MOST_SAMPLES, MOST_PIECES = 6, 2**17  # a pixel; an image
MOST = {  # values of each tag that is read
    **dict.fromkeys((WIDTH, HEIGHT, COMPRESSION, COLOURS, FILL_ORDER, SAMPLES, STRIP_ROWS, PLANES), 1),
    **dict.fromkeys((KIND, ORIENTATION, PREDICTOR, TILE_WIDTH, TILE_HEIGHT), 1),
    **dict.fromkeys((BITS, EXTRA, NUMBERS, SUBSAMPLING), MOST_SAMPLES),
    **dict.fromkeys((STRIPS, STRIP_BYTES, TILES, TILE_BYTES), MOST_PIECES),
    PALETTE: 3 * 2**16,
    JPEG_TABLES: 2**16,
}
INTEGERS = {1: "B", 3: "H", 4: "I", 7: "B"}  # kinds of whole numbers, and bytes of no kind
DEPTHS = {1, 2, 4, 8, 16}  # bits a sample
COMPRESSIONS = {2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "old JPEG", 7: "JPEG", 8: "deflate"}
COMPRESSIONS |= {32773: "PackBits", 32946: "deflate", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard"}
BY_IMAGECODECS = {2, 3, 4, 5, 7, 8, 32773, 32946, 50000}
KINDS = {1: np.bool_, 8: np.uint8, 16: np.uint16}  # what imagecodecs makes of so many bits a sample
AS_RGB = {5, 6}  # colours as CMYK and YCbCr
EXIF = "<4sIHHHIHxxxxxx"  # EXIF data with one tag


class _Tag(NamedTuple):
    kind: int
    number: int
    value: bytes  # four bytes: the value itself, or where it is


class _Directory:
    """The first directory of a TIFF."""

    def __init__(self, data: bytes) -> None:
        """Raises UnreadableError: it is damaged; struct.error: it is cut off."""
        self._data, self.order = data, ORDERS[data[:4]]
        (start,) = self._unpack("I", 4)
        (count,) = self._unpack("H", start)
        self.tags: dict[int, _Tag] = {}
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = self._unpack("HHI", place)
            if tag in self.tags or (tag in MOST and (kind not in INTEGERS or not 1 <= number <= MOST[tag])):
                raise UnreadableError(f"is a damaged TIFF: its tag {tag} is there twice, or has false values")
            self.tags[tag] = _Tag(kind, number, data[place + 8 : place + 12])
        self.end = len(data)
        (following,) = self._unpack("I", start + 2 + 12 * count)
        self.several = following != 0

    def _unpack(self, form: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + form, self._data, place)

    def values(self, tag: int, default: int) -> tuple[int, ...]:
        """The whole numbers of one of the tags that are read."""
        if tag not in self.tags:
            return (default,)
        kind, number, value = self.tags[tag]
        form = f"{self.order}{number}{INTEGERS[kind]}"
        if struct.calcsize(form) <= len(value):
            return struct.unpack_from(form, value)
        return struct.unpack_from(form, self._data, *struct.unpack(self.order + "I", value))

    def value(self, tag: int, default: int) -> int:
        """The first whole number of a tag."""
        return self.values(tag, default)[0]

    def alone(self) -> bytes:
        """The file with a directory of the tags alone that are read, without the orientation."""
        kept = [(tag, self.tags[tag]) for tag in sorted(MOST.keys() - {ORIENTATION}) if tag in self.tags]
        entries = b"".join(
            struct.pack(self.order + "HHI", tag, t.kind, t.number) + t.value for tag, t in kept
        )
        data = self._data + b"\0" * (len(self._data) % 2)  # directories begin at even places
        directory = struct.pack(self.order + "H", len(kept)) + entries + bytes(4)
        return data[:4] + struct.pack(self.order + "I", len(data)) + data[8:] + directory


def open_tiff(data: bytes) -> Image.Image:
    """Open the first image. Raises as `formats.open_image`."""
    directory = _Directory(data)
    if directory.value(KIND, 0) & 1 or DNG in directory.tags:  # a reduced image comes first
        raise UnreadableError(f"is {unreadable_format(RAW)}: {REMEDY}")
    _refuse_odd(directory)
    alone = directory.alone()
    opened = Image.open(io.BytesIO(alone), formats=("TIFF",))
    compressed = opened.tile[0].codec_name == "libtiff"
    by_pillow = not compressed or features.check("libtiff")
    image = opened if by_pillow else _by_imagecodecs(alone, opened, directory)
    image.load()  # Pillow turns it by the EXIF data that it has by then
    image.format = "TIFF"
    image.info |= {"several": directory.several, "bits": directory.value(BITS, 1)}
    if ORIENTATION in directory.tags:
        image.info["exif"] = struct.pack(
            EXIF, b"II*\0", 8, 1, ORIENTATION, 3, 1, directory.value(ORIENTATION, 1)
        )
    return image


def _refuse_odd(directory: _Directory) -> None:
    """Raise UnreadableError for an image beyond the limits, or one without a fixed range of brightness."""
    width, height = directory.value(WIDTH, 0), directory.value(HEIGHT, 0)
    refuse_too_large(width, height)
    bits, numbers = directory.values(BITS, 1), directory.values(NUMBERS, 1)
    if not set(bits) <= DEPTHS or set(numbers) != {1}:
        raise UnreadableError(f"is a TIFF whose samples are not whole numbers of 1 to 16 bits: {REMEDY}")
    if directory.value(SAMPLES, 1) > MOST_SAMPLES:
        raise UnreadableError(f"is a TIFF with {directory.value(SAMPLES, 1)} samples a pixel: {REMEDY}")
    wide, high, places = width, directory.value(STRIP_ROWS, height), STRIPS
    if TILES in directory.tags:
        wide, high, places = directory.value(TILE_WIDTH, 0), directory.value(TILE_HEIGHT, 0), TILES
    if not wide or not high or (places == TILES and (wide % 16 or high % 16 or wide * high > MAX_PIXELS)):
        raise UnreadableError(f"is a damaged TIFF: its pieces have {wide}x{high} pixels")
    planes = directory.value(SAMPLES, 1) if directory.value(PLANES, 1) == 2 else 1
    pieces = -(-width // wide) * -(-height // high) * planes
    if places in directory.tags and directory.tags[places].number > pieces:
        raise UnreadableError(f"is a damaged TIFF: it has more than {pieces} pieces")
    lengths = directory.values(TILE_BYTES if places == TILES else STRIP_BYTES, 0)
    if directory.end < max(map(sum, zip(directory.values(places, 0), lengths, strict=False))):
        raise UnreadableError("is cut off")  # libtiff fills what is missing in some kinds of images


def _by_imagecodecs(data: bytes, opened: ImageFile.ImageFile, directory: _Directory) -> Image.Image:
    """Decode by imagecodecs what Pillow has opened. Raises UnreadableError where neither can."""
    compression, bits = directory.value(COMPRESSION, 1), directory.value(BITS, 1)
    name = COMPRESSIONS.get(compression, f"compression {compression}")
    refused = UnreadableError(f"is TIFF with {name} and {bits} bits: {REMEDY}")
    if compression not in BY_IMAGECODECS or bits not in KINDS:
        raise refused
    try:
        from imagecodecs import tiff_decode
    except ImportError:
        raise UnreadableError(
            f"is TIFF with {name}, which this Pillow does not read: install another decoder, "
            "`pip install imagecodecs`"
        ) from None
    pixels = tiff_decode(data)
    args = opened.tile[0].args
    mode, rawmode, samples = opened.mode, args and args[0], directory.value(SAMPLES, 1)
    if directory.value(COLOURS, 0) in AS_RGB:  # libtiff converts these
        mode, rawmode, samples = "RGB", "RGB", 3
    elif mode.startswith("I;16"):
        mode, rawmode = "I;16", "I;16N"
    if samples > 1 and directory.value(PLANES, 1) == 2:
        pixels = pixels.transpose(1, 2, 0)
    shape = (opened.height, opened.width) + ((samples,) if samples > 1 else ())
    if pixels.shape != shape or pixels.dtype != KINDS[bits]:
        raise refused
    packed = np.packbits(pixels, axis=1) if bits == 1 else np.ascontiguousarray(pixels)
    image = Image.frombytes(mode, opened.size, packed, "raw", rawmode)
    if opened.mode == "P":
        image.palette = opened.palette
    image.info["mode"] = opened.mode
    return image
