"""200 odd and damaged images: each conversion is reported, and each error is an UnreadableError."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from preprocess.errors import UnreadableError
from preprocess.pictures.images import convert
from preprocess.pictures.resize import resize_and_crop, resized_size
from tests.preprocess.helpers import draw, encode

EACH = 8
Make = Callable[[int], bytes]


def plain(seed: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(seed)
    return draw(seed, *(int(side) for side in random.integers(20, 120, 2)), mode)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(seed: int, bits: int, kind: int, channels: int) -> bytes:
    """A PNG that Pillow does not write: random pixels of so many bits a channel."""
    width, height = 30 + seed, 40

    line = width * channels * bits // 8
    rows = np.random.default_rng(seed).integers(0, 256, (height, line), dtype=np.uint8)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def ycck(seed: int) -> bytes:
    """A JPEG of four inks whose Adobe marker says that three of them are YCC."""
    data = bytearray(encode(plain(seed, "CMYK")))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def without_adobe(seed: int) -> bytes:
    data = encode(plain(seed, "CMYK"))
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:start] + data[start + 16 :]


def turned(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 2 + seed % 7
    return encode(plain(seed), exif=exif)


def broken_exif(seed: int) -> bytes:
    junk = np.random.default_rng(seed).bytes(30)
    return encode(plain(seed), exif=b"Exif\0\0" + (junk, b"II*\0\x08\0\0\0\xff\xff" + junk)[seed % 2])


def bomb(seed: int) -> bytes:
    """A small file that claims 400 megapixels and more."""
    data = bytearray(encode(plain(seed)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 20_000 + seed, 20_000)
    return bytes(data)


LISTED: dict[str, tuple[Make, tuple[str, ...]]] = {
    "PNG in disguise": (lambda n: encode(plain(n), "PNG"), ("PNG in a .JPEG",)),
    "CMYK": (lambda n: encode(plain(n, "CMYK")), ("CMYK",)),
    "YCCK": (ycck, ("YCCK",)),
    "CMYK without Adobe's mark": (without_adobe, ("CMYK without Adobe's mark",)),
    "greyscale": (lambda n: encode(plain(n, "L")), ("greyscale",)),
    "16-bit grey": (lambda n: png(n, 16, 0, 1), ("PNG in a .JPEG", "16-bit greyscale")),
    "16-bit colour": (lambda n: png(n, 16, 2, 3), ("PNG in a .JPEG", "16-bit colour")),
    "16-bit alpha": (lambda n: png(n, 16, 6, 4), ("PNG in a .JPEG", "alpha", "16-bit colour")),
    "palette": (lambda n: encode(plain(n, "P"), "PNG"), ("PNG in a .JPEG", "palette")),
    "bilevel": (lambda n: encode(plain(n, "1"), "PNG"), ("PNG in a .JPEG", "bilevel")),
    "alpha": (lambda n: encode(plain(n, "RGBA"), "PNG"), ("PNG in a .JPEG", "alpha")),
    "transparent": (
        lambda n: encode(plain(n), "PNG", transparency=(1, 2, 3)),
        ("PNG in a .JPEG", "transparent colour"),
    ),
    "orientation": (turned, ("EXIF orientation ignored",)),
    "corrupt EXIF": (broken_exif, ("corrupt EXIF",)),
    "panorama": (lambda n: encode(draw(n, 900 + n, 40)), ("panorama",)),
    "one pixel": (lambda n: encode(draw(n, 1, 1)), ("less than 8 pixels",)),
    "animation": (
        lambda n: encode(plain(n), "PNG", save_all=True, append_images=[plain(n + 50).resize(plain(n).size)]),
        ("PNG in a .JPEG", "first of several pictures"),
    ),
}

REFUSED: dict[str, tuple[Make, str]] = {
    "empty": (lambda n: b"", "is empty"),
    "HTML": (lambda n: b"<html>%d Not Found</html>" % (400 + n), "begins with b'<html>"),
    "truncated": (lambda n: encode(plain(n))[: -20 - 9 * n], "truncated"),
    "truncated head": (lambda n: encode(plain(n))[: 3 + n], "."),
    "truncated PNG": (lambda n: encode(plain(n), "PNG")[:-40], "."),
    "AVIF": (lambda n: b"\0\0\0\x1cftypavif" + bytes(n), "is AVIF, which cannot be read: convert it to JPEG"),
    "noise": (lambda n: np.random.default_rng(n).bytes(900), "no known image format"),
    "bomb": (bomb, "pixels"),
}


@pytest.mark.parametrize("kind", LISTED)
def test_odd_images_are_converted_and_the_repair_listed(kind: str) -> None:
    make, repairs = LISTED[kind]
    for seed in range(EACH):
        data = make(seed)
        image, found = convert(data, "a.JPEG", 32)
        assert found == repairs
        opened = Image.open(io.BytesIO(data))
        if "16-bit greyscale" not in repairs:  # there Pillow clips
            expected = by_the_plain_calls(opened.convert("RGB"), 32)
            np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_images_are_refused_with_a_reason(kind: str) -> None:
    make, reason = REFUSED[kind]
    for seed in range(EACH):
        with pytest.raises(UnreadableError, match=reason):
            convert(make(seed), "a.JPEG", 32)


def test_these_are_200_images() -> None:
    assert EACH * (len(LISTED) + len(REFUSED)) == 200


def by_the_plain_calls(image: Image.Image, side: int) -> np.ndarray:
    width, height = resized_size(image.size, side)
    left, top = (width - side) // 2, (height - side) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def test_an_image_of_any_size_gets_the_pixels_of_the_plain_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    sizes = [(1, 1), (1, 400), (400, 1), (3, 2), (64, 64), (65, 64), (63, 900)]
    sizes += [tuple(map(int, np.exp(random.uniform(0, 6.5, 2)))) for _ in range(40)]
    for number, size in enumerate(sizes):
        image = draw(number, *size)
        expected = by_the_plain_calls(image, 64)
        for strip in (2**24, 3_000, 1):  # pixels: whole, in strips, row by row
            monkeypatch.setattr("preprocess.pictures.resize.STRIP", strip)
            assert np.array_equal(np.asarray(resize_and_crop(image, 64)), expected), (size, strip)


def test_extreme_panoramas_take_little_memory_or_are_refused() -> None:
    ramp = np.linspace(0, 255, 20_000).astype(np.uint8)
    wide = np.asarray(resize_and_crop(Image.fromarray(np.repeat(ramp[None], 3, 0)).convert("RGB"), 256))
    assert (wide.std(axis=0) == 0).all()
    assert set(np.unique(wide)) == {127}  # the centre of the ramp, which the plain calls find with 1.7 GB
    with pytest.raises(UnreadableError, match="one side is more than 8192 times the other"):
        convert(encode(draw(0, 9_000, 1)), "a.JPEG", 256)


LONG = 2**20 + 1  # bytes; Pillow's limit of one text is 2**20, and of all 2**26
TEXTS = {
    "text": [chunk(b"tEXt", b"parameters\0" + b"x" * LONG)],
    "compressed text": [chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * LONG))],
    "international text": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * LONG))],
    "colour profile": [chunk(b"iCCP", b"CMYK\0\0" + zlib.compress(b"x" * LONG))],
    "many texts": [chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**20))] * 65,
    "damaged": [chunk(b"zTXt", b"a\0\0no zlib"), chunk(b"iCCP", b"")],
}


@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "after them"])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_png_is_read_whatever_texts_it_has(kind: str, place: int) -> None:
    data = encode(plain(3), "PNG")  # 33: after the header; -12: before the end
    expected, repairs = convert(data, "a.png", 32)
    image, found = convert(data[:place] + b"".join(TEXTS[kind]) + data[place:], "a.png", 32)
    np.testing.assert_array_equal(image, expected)
    assert found == repairs == ()


def test_a_png_that_ends_in_a_text_is_refused() -> None:
    data = encode(plain(3), "PNG")
    with pytest.raises(UnreadableError):
        convert(data[:33] + TEXTS["text"][0][:-20], "a.png", 32)
