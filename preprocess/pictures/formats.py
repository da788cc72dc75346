"""Which format an image file has, by its first bytes, and who decodes it.

Only the decoder of that format sees the bytes. An opened image has what `images.convert` asks for: format,
mode, size, `info["exif"]` where there are EXIF data, and `info["several"]` where the file has further images.
"""

import io
import struct
from collections.abc import Callable

from PIL import Image

from preprocess.errors import UnreadableError
from preprocess.pictures.gif import first_image
from preprocess.pictures.heif import open_heif
from preprocess.pictures.limits import refuse_too_large
from preprocess.pictures.tiff import open_tiff
from preprocess.pictures.webp import open_webp
from preprocess.shared.image_files import RAW, REMEDY, unreadable_format

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # chunks of text and of colour profiles
RUN_LENGTH = {1, 2}  # the compressions of a BMP by run lengths
MOST_RUNS = 2**24  # bytes of such a BMP; Pillow decodes a quarter of them in a second
TIFF = (b"II*\0", b"MM\0*")

STARTS = (  # the first bytes, and the format
    (b"\xff\xd8\xff", "JPEG"),
    (PNG_START, "PNG"),
    *((start, "GIF") for start in (b"GIF87a", b"GIF89a")),
    (b"BM", "BMP"),
    *((start, "TIFF") for start in TIFF),
    *((start, "BigTIFF") for start in (b"II+\0", b"MM\0+")),
    *((start, RAW) for start in (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb")),
    *((start, "JPEG 2000") for start in (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    *((start, "JPEG XL") for start in (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"\0\0\1\0", "ICO"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    *((b"P%d" % kind + end, "PNM") for kind in range(1, 8) for end in (b"\n", b" ", b"\r")),
)
BRANDS = (  # of the ISO base media file format, and the format
    ({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}, "HEIF"),
    ({b"avif", b"avis"}, "AVIF"),
    ({b"crx "}, RAW),
    ({b"mif1", b"msf1"}, "HEIF"),
)


def format_of(data: bytes) -> str:
    """The format that the first bytes tell; "" for an unknown one."""
    if data.startswith(TIFF) and data[8:10] == b"CR":
        return RAW
    for start, name in STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _format_of_brands(data)
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in head:
        return "SVG"
    return ""


def _format_of_brands(data: bytes) -> str:
    """The format of a file of the ISO base media file format: the main brand decides, then the others."""
    end = min(int.from_bytes(data[:4], "big"), 1024)
    main, others = {data[8:12]}, {data[place : place + 4] for place in range(16, end, 4)}
    for brands in (main - BRANDS[-1][0], others - BRANDS[-1][0], main):
        for known, name in BRANDS:
            if brands & known:
                return name
    return ""


def open_image(data: bytes) -> Image.Image:
    """Open an image, with its size held against the limits.

    Raises:
        UnreadableError: empty, too large, a format that is not read, or one whose decoder is missing.
        Exception: any, for damaged bytes.
    """
    if not data:
        raise UnreadableError("is empty")
    name = format_of(data)
    if name not in OPENERS:
        unknown = f"has no known image format: it begins with {data[:12]!r}"
        raise UnreadableError(f"is {unreadable_format(name)}: {REMEDY}" if name else unknown)
    try:
        return OPENERS[name](data)
    except struct.error as error:
        raise UnreadableError("is cut off") from error


def _open_jpeg(data: bytes) -> Image.Image:
    return _by_pillow(data, "JPEG")


def _open_png(data: bytes) -> Image.Image:
    """Leave texts and the colour profile out: Pillow refuses long ones, and the pixels need none."""
    kept, place = [PNG_START], len(PNG_START)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + length + 12  # the length, the kind, the content, and its checksum
        if kind not in PNG_TEXTS:
            kept.append(data[place:end])
        place = end
    return _by_pillow(b"".join([*kept, data[place:]]), "PNG")


def _open_gif(data: bytes) -> Image.Image:
    first, several = first_image(data)
    image = _by_pillow(first, "GIF")
    image.info["several"] = several
    return image


def _open_bmp(data: bytes) -> Image.Image:
    image = _by_pillow(data, "BMP")
    if image.info.get("compression") in RUN_LENGTH and len(data) > MOST_RUNS:
        raise UnreadableError(f"is a BMP with run lengths of {len(data)} bytes, more than {MOST_RUNS}")
    return image


def _by_pillow(data: bytes, name: str) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data), formats=(name,))
    refuse_too_large(*image.size)
    return image


OPENERS: dict[str, Callable[[bytes], Image.Image]] = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "GIF": _open_gif,
    "BMP": _open_bmp,
    "TIFF": open_tiff,
    "WEBP": open_webp,
    "HEIF": open_heif,
}
