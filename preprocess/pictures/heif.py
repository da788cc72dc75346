"""Opens a HEIF with pictures coded by HEVC (HEIC), as telephones store them, by pillow-heif.

libheif applies the turns that the file itself prescribes. By the standard (ISO/IEC 23008-12, 6.5.10) the
orientation in the EXIF data only repeats them. So it is left out: nothing is turned twice.
"""

from PIL import Image

from preprocess.errors import UnreadableError
from preprocess.pictures.limits import refuse_too_large

REMEDY = (
    "is HEIF, which needs a decoder: install it, `pip install --no-deps pillow-heif`"  # it requires Pillow
)


def open_heif(data: bytes) -> Image.Image:
    """Decode the main image. Raises as `formats.open_image`."""
    try:
        import pillow_heif
    except ImportError:
        raise UnreadableError(REMEDY) from None
    pillow_heif.options.DECODE_THREADS = 1  # there is a process for each core
    found = pillow_heif.open_heif(data)
    refuse_too_large(*found.size)
    pixels = found.data  # the size is exact after that
    image = Image.frombytes(found.mode, found.size, pixels, "raw", found.mode, found.stride)
    image.format = "HEIF"
    image.info = {"several": len(found) > 1}
    return image
