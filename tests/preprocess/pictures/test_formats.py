"""WebP, GIF, BMP, TIFF and HEIC: the pixels of the other program that wrote the file, and hostile files."""

import io
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image

from preprocess.errors import UnreadableError
from preprocess.pictures.formats import format_of
from preprocess.pictures.images import convert, square
from tests.preprocess.helpers import draw, encode

PHOTO = draw(1, 80, 64)
PIXELS = np.asarray(PHOTO)
GREY = np.asarray(PHOTO.convert("L"))
CMYK = np.asarray(PHOTO.convert("CMYK"))
ALPHA = np.dstack([PIXELS, np.arange(80, dtype=np.uint8)[None].repeat(64, 0)])
OTHERS = [draw(2, 80, 64), draw(3, 80, 64)]
PALETTE = PHOTO.convert("P")
SEVERAL = "first of several pictures"


def heif(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[np.generic], compression: str = "none", **options: Any) -> bytes:
    return bytes(imagecodecs.tiff_encode(pixels, compression=compression, **options))


def webp(pixels: NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.webp_encode(pixels, lossless=True))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks, by RFC 9649."""
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for k, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended(flags: int, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (80, 64)) -> bytes:
    width, height = ((side - 1).to_bytes(3, "little") for side in size)
    return riff((b"VP8X", bytes([flags, 0, 0, 0]) + width + height), *chunks)


def animation() -> bytes:
    """A WebP of two frames."""
    frames = [webp(np.asarray(image))[12:] for image in (PHOTO, OTHERS[0])]
    sides = (79).to_bytes(3, "little") + (63).to_bytes(3, "little")
    head = bytes(6) + sides + (100).to_bytes(3, "little") + b"\2"
    return extended(2, (b"ANIM", bytes(6)), *((b"ANMF", head + frame) for frame in frames))


PICTURES: dict[str, tuple[str, bytes, Image.Image, tuple[str, ...]]] = {
    "GIF": ("gif", encode(PHOTO, "GIF"), Image.open(io.BytesIO(encode(PHOTO, "GIF"))), ("palette",)),
    "animated GIF": (
        *("gif", encode(PHOTO, "GIF", save_all=True, append_images=OTHERS)),
        *(Image.open(io.BytesIO(encode(PHOTO, "GIF"))), ("palette", SEVERAL)),
    ),
    "transparent GIF": (
        *(
            "gif",
            encode(PALETTE, "GIF", transparency=int(np.asarray(PALETTE)[0, 0])),
            PALETTE,
            ("palette", "transparent colour"),
        ),
    ),
    "BMP": ("bmp", encode(PHOTO, "BMP"), PHOTO, ()),
    "BMP of two colours": ("bmp", encode(PHOTO.convert("1"), "BMP"), PHOTO.convert("1"), ("bilevel",)),
    "TIFF": ("tif", encode(PHOTO, "TIFF"), PHOTO, ()),
    "TIFF with pages": (
        *("tiff", encode(PHOTO, "TIFF", save_all=True, append_images=OTHERS)),
        *(PHOTO, (SEVERAL,)),
    ),
    "TIFF, CMYK": ("tif", encode(PHOTO.convert("CMYK"), "TIFF"), PHOTO, ("CMYK",)),
    "TIFF, LZW, CMYK": ("tif", tiff(CMYK, "lzw", photometric="separated"), PHOTO, ("CMYK",)),
    "TIFF, LZW": ("tif", tiff(PIXELS, "lzw", photometric="rgb"), PHOTO, ()),
    "TIFF, LZW, alpha": ("tif", tiff(ALPHA, "lzw"), PHOTO, ("alpha",)),
    "TIFF, packbits": ("tif", tiff(PIXELS, "packbits"), PHOTO, ()),
    "TIFF, deflate, tiles": (
        *("tif", tiff(PIXELS, "deflate", photometric="rgb", tile=(16, 32), predictor=True), PHOTO, ()),
    ),
    "TIFF, planes": (
        *("tif", tiff(PIXELS.transpose(2, 0, 1).copy(), "lzw", photometric="rgb", planarconfig="separate")),
        *(PHOTO, ()),
    ),
    "TIFF, 16 bits": ("tif", tiff(PIXELS * np.uint16(257), "zstd"), PHOTO, ("16-bit colour",)),
    "TIFF, grey, 16 bits, other order": (
        *("tif", tiff(GREY * np.uint16(257), "lzw", byteorder=">"), PHOTO.convert("L")),
        ("16-bit greyscale",),
    ),
    "TIFF, white is 0": (
        *("tif", tiff(255 - GREY, "lzw", photometric="miniswhite"), PHOTO.convert("L"), ("greyscale",)),
    ),
    "TIFF, fax": (
        *("tif", tiff(np.asarray(PHOTO.convert("1")), "ccittfax4"), PHOTO.convert("1"), ("bilevel",)),
    ),
    "TIFF, palette": (
        "tif",
        tiff(
            *(np.asarray(PALETTE), "lzw"),
            photometric="palette",
            colormap=np.resize(PALETTE.getpalette() or [], (256, 3)).T.astype(np.uint16) * 257,
        ),
        *(PALETTE, ("palette",)),
    ),
    "WebP": ("webp", webp(PIXELS), PHOTO, ()),
    "WebP, alpha": ("webp", webp(ALPHA), PHOTO, ("alpha",)),
    "animated WebP": ("webp", animation(), PHOTO, (SEVERAL,)),
}
LOSSY: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "WebP": ("webp", bytes(imagecodecs.webp_encode(PIXELS, level=90)), ()),
    "TIFF": ("tif", tiff(PIXELS, "jpeg", photometric="ycbcr"), ()),
    "HEIC": ("heic", heif(PHOTO), ()),
    "HEIC, alpha": ("heif", heif(PHOTO.convert("RGBA")), ("alpha",)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_other_formats_give_the_pixels_that_were_written_and_name_repairs(kind: str) -> None:
    suffix, data, picture, repairs = PICTURES[kind]
    expected, _ = convert(encode(picture.convert("RGB"), "PNG"), "a.png", 32)
    image, found = convert(data, f"a.{suffix}", 32)
    np.testing.assert_array_equal(image, expected)
    assert found == repairs


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_give_nearly_the_pixels_that_were_written(kind: str) -> None:
    suffix, data, repairs = LOSSY[kind]
    expected, _ = convert(encode(PHOTO, "PNG"), "a.png", 32)
    image, found = convert(data, f"a.{suffix}", 32)
    assert np.abs(image.astype(int) - expected).mean() < 1.5
    assert found == repairs


@pytest.mark.parametrize(
    ("data", "repair"),
    [
        (webp(PIXELS), "WEBP in a .jpg"),
        (heif(PHOTO), "HEIF in a .jpg"),
        (encode(PHOTO, "GIF"), "GIF in a .jpg"),
        (encode(PHOTO, "BMP"), "BMP in a .jpg"),
        (encode(PHOTO, "TIFF"), "TIFF in a .jpg"),
    ],
)
def test_the_content_decides_the_format_and_a_wrong_suffix_is_a_repair(data: bytes, repair: str) -> None:
    assert convert(data, "a.jpg", 32)[1][0] == repair


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("form", ["TIFF", "TIFF, LZW", "WebP"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_exif_orientation_of_other_formats_is_obeyed_when_asked(
    orientation: int, form: str, upright: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if form == "WebP":
        data = extended(8, (b"VP8L", webp(PIXELS)[20:]), (b"EXIF", exif.tobytes()))
    else:
        data = encode(PHOTO, "TIFF", tiffinfo={0x0112: orientation})
        if form == "TIFF, LZW":  # the strip is compressed here; Pillow cannot
            strip = bytes(imagecodecs.lzw_encode(PIXELS.tobytes()))
            replaced = {259: 5, 273: len(data), 279: len(strip)}
            data = with_tags(data, replaced) + strip
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[orientation]
    expected = PHOTO.transpose(turn) if upright else PHOTO
    image, repairs = convert(data, "a.jpg", 32, upright=upright)
    np.testing.assert_array_equal(image, convert(encode(expected, "PNG"), "a.png", 32)[0])
    assert repairs[1:] == (f"EXIF orientation {'applied' if upright else 'ignored'}",)


def with_tags(data: bytes, replaced: dict[int, int]) -> bytes:
    """A TIFF with other values of these tags, each a single one."""
    made = bytearray(data)
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, place)
        if tag in replaced:
            struct.pack_into("<HII", made, place + 2, 4, 1, replaced[tag])
    return bytes(made)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_turn_of_a_heic_is_applied_once(orientation: int, upright: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[orientation]
    expected, _ = convert(encode(PHOTO.transpose(turn), "PNG"), "a.png", 32)
    image, repairs = convert(heif(PHOTO, exif=exif.tobytes()), "a.heic", 32, upright=upright)
    assert np.abs(image.astype(int) - expected).mean() < 1.5
    assert repairs == ()


@pytest.mark.parametrize("size", [(80, 64), (30, 500), (300, 40)])
@pytest.mark.parametrize("draft", [False, True])
def test_the_shorter_side_of_the_original_is_told(size: tuple[int, int], draft: bool) -> None:
    image = draw(1, *size)
    for data in (encode(image), encode(image, "PNG"), encode(image, "TIFF")):
        assert square(data, "a.jpg", 32, draft).shorter == min(size)


DAMAGED = {
    **{kind: data for kind, (_, data, _, found) in PICTURES.items() if SEVERAL not in found},
    **{f"lossy {kind}": data for kind, (_, data, _) in LOSSY.items()},
}


@pytest.mark.filterwarnings("ignore")  # decoders warn of damage
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_bytes_give_an_image_or_an_unreadable_error(kind: str) -> None:
    random = np.random.default_rng(7)
    original = DAMAGED[kind]
    refused = 0
    for number in range(40):
        data = bytearray(original)
        if number % 2:
            del data[int(random.integers(1, len(data) // 2)) :]
        else:
            head = random.integers(2)  # half of the changes are in the header or in the last tags
            for place in random.integers(0, 200 if head else len(data), 8) - 200 * int(
                random.integers(2) * head
            ):
                data[place] = random.integers(256)
        try:
            image, _ = convert(bytes(data), "a.jpg", 32, upright=True)
            assert image.shape == (32, 32, 3)
        except UnreadableError:
            refused += 1
    assert refused >= 20  # all that are cut to less than their half


def gif(blocks: bytes, size: tuple[int, int] = (8, 8), image: bytes = b"") -> bytes:
    """A GIF with these blocks before its image, which is Pillow's of 8x8 pixels or another."""
    written = encode(Image.new("L", (8, 8)), "GIF")
    image = image or written[written.index(b",") :]
    return b"GIF89a" + struct.pack("<HH", *size) + b"\xf7\0\0" + bytes(768) + blocks + image


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "GIF, canvas": (lambda: gif(b"", (65535, 65535)), "pixels"),
    "GIF, image larger than its canvas": (
        lambda: gif(b"", image=b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x08\x01\0\0;"),
        "pixels",
    ),
    "GIF, blocks": (lambda: gif(b"!\xfe" + b"\1a" * 2**21 + b"\0"), "more than 2097152 blocks"),
    "BMP, size": (
        lambda: b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, *[0] * 6),
        "pix",
    ),
    "BMP, run lengths": (
        lambda: bmp_of_runs() + bytes(2**24),
        "run lengths",
    ),
    "WebP, canvas": (lambda: extended(0, (b"VP8L", webp(PIXELS)[20:]), size=(2**24, 2**24)), "pixels"),
    "WebP, picture": (lambda: riff((b"VP8L", b"\x2f" + b"\xff" * 60)), "pixels"),
    "WebP, lossy picture": (lambda: riff((b"VP8 ", bytes(6) + b"\xff\x3f\xff\x3f" + bytes(60))), "pixels"),
    "TIFF, size": (lambda: with_tags(encode(PHOTO, "TIFF"), {256: 2**31, 257: 2**31}), "pixels"),
    "TIFF, longer than wide": (lambda: with_tags(encode(PHOTO, "TIFF"), {256: 1, 257: 2**20}), "one side"),
    "TIFF, tiles": (
        lambda: with_tags(tiff(PIXELS, "lzw", tile=(16, 16)), {322: 2**20, 323: 2**20}),
        "1048576x1048576",
    ),
    "TIFF, strips": (lambda: tags_of((256, 3, 1, 9), (257, 3, 1, 9), (273, 4, 10**8, 8)), "tag 273"),
    "TIFF, values": (lambda: tags_of((256, 3, 1, 9), (257, 3, 1, 9), (258, 3, 10**8, 8)), "tag 258"),
    "TIFF, a piece beyond the end": (
        lambda: with_tags(tiff(CMYK, "lzw", photometric="separated"), {279: 2**20}),
        "is cut off",
    ),
    "TIFF, a tag twice": (lambda: tags_of((256, 3, 1, 9), (256, 3, 1, 9)), "tag 256 is there twice"),
    "TIFF, samples": (lambda: with_tags(encode(PHOTO, "TIFF"), {277: 60000}), "60000 samples"),
    "TIFF, floats": (lambda: tiff(PIXELS.astype(np.float32)), "not whole numbers"),
    "TIFF, 32 bits": (lambda: tiff(GREY.astype(np.uint32)), "not whole numbers"),
    "TIFF, LZMA": (lambda: tiff(PIXELS, "lzma"), "is TIFF with LZMA"),
    "TIFF, a reduced image first": (lambda: tiff(PIXELS, subfiletype=1), "is a camera's raw format, which"),
    "HEIC, size": (lambda: heif_with_size(60000, 60000), "."),
    "HEIC, another size than coded": (lambda: heif_with_size(16, 16), "."),
}


def tags_of(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of these tags alone: number, kind, values, value."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(400)


def bmp_of_runs() -> bytes:
    """The header of a BMP of 80x64 pixels with run lengths."""
    head = struct.pack("<IiiHHIIiiII", 40, 80, 64, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + head + bytes(1024)


def heif_with_size(width: int, height: int) -> bytes:
    data = bytearray(heif(PHOTO))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_at_once(kind: str) -> None:
    make, reason = HOSTILE[kind]
    data = make()
    begin = time.process_time()
    with pytest.raises(UnreadableError, match=reason):
        convert(data, "a.jpg", 32)
    assert time.process_time() - begin < 2  # seconds; mostly a millisecond


def test_a_gif_with_many_comments_and_images_is_read_at_once() -> None:
    comments = (b"!\xfe" + (b"\xff" + b"a" * 255) * 20_000 + b"\0") * 5
    image = gif(b"")[13 + 768 : -1]
    begin = time.process_time()
    assert SEVERAL in convert(gif(comments, image=image * 20_000), "a.gif", 32)[1]
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "a camera's raw format"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", ""),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw format"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<svg/>", "SVG"),
        (b"<html><svg/></html>", ""),
        (bytes(imagecodecs.jpeg2k_encode(PIXELS)), "JPEG 2000"),
        (bytes(imagecodecs.jpegxl_encode(PIXELS)), "JPEG XL"),
        (bytes(imagecodecs.jpegxr_encode(PIXELS)), "JPEG XR"),
        (bytes(imagecodecs.avif_encode(PIXELS)), "AVIF"),
        (tiff(PIXELS, bigtiff=True), "BigTIFF"),
        (encode(PHOTO, "ICO"), "ICO"),
        (encode(PHOTO, "PDF"), "PDF"),
        (encode(PHOTO, "PPM"), "PNM"),
        (b"8BPS\0\1", "PSD"),
    ],
)
def test_a_format_that_is_not_read_is_named(data: bytes, format: str) -> None:
    assert format_of(data) == format
    if format and format != "HEIF":
        with pytest.raises(
            UnreadableError, match=f"is {format}, which cannot be read: convert it to JPEG or"
        ):
            convert(data, "a.jpg", 32)


@pytest.mark.parametrize(
    ("library", "data", "remedy"),
    [
        ("imagecodecs", webp(PIXELS), "is WebP, .*: install another decoder, `pip install imagecodecs`"),
        ("imagecodecs", tiff(PIXELS, "lzw"), "is TIFF with LZW, .*decoder, `pip install imagecodecs`"),
        ("pillow_heif", heif(PHOTO), "is HEIF, .*: install it, `pip install --no-deps pillow-heif`"),
    ],
)
def test_a_missing_decoder_is_named_with_the_remedy(
    library: str, data: bytes, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    with pytest.raises(UnreadableError, match=remedy):
        convert(data, "a.jpg", 32)
