import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from preprocess.errors import UnreadableError
from preprocess.pictures.images import convert
from tests.preprocess.helpers import draw, encode

BICUBIC = Image.Resampling.BICUBIC


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [  # worked out by hand: longer * 256 / shorter to the nearest pixel, then half of what is too much
        ((500, 375), (341, 256), (42, 0)),  # 341.33
        ((333, 500), (256, 384), (0, 64)),  # 384.38
        ((100, 101), (256, 259), (0, 1)),  # 258.56
        ((513, 512), (257, 256), (0, 0)),  # 256.5
        ((256, 256), (256, 256), (0, 0)),
        ((32, 32), (256, 256), (0, 0)),
        ((3, 2), (384, 256), (64, 0)),
        ((1, 1), (256, 256), (0, 0)),
        ((900, 20), (11520, 256), (5632, 0)),
    ],
)
def test_pixels_are_byte_for_byte_those_of_pillows_own_resize_and_crop(
    size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    data = encode(draw(1, *size))
    left, top = corner
    expected = Image.open(io.BytesIO(data)).resize(resized, BICUBIC).crop((left, top, left + 256, top + 256))
    image, repairs = convert(data, "a.JPEG", 256)
    assert image.tobytes() == expected.tobytes()
    assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)
    assert bool(repairs) == (size in ((3, 2), (1, 1), (900, 20)))


@pytest.mark.parametrize(
    ("data", "name", "repairs"),
    [
        (encode(draw(2, 90, 70, "L")), "a.JPEG", ("greyscale",)),
        (encode(draw(2, 90, 70, "CMYK")), "a.JPEG", ("CMYK",)),
        (encode(draw(2, 90, 70), "PNG"), "a.JPEG", ("PNG in a .JPEG",)),
        (encode(draw(2, 90, 70), "PNG"), "a.png", ()),
        (encode(draw(2, 90, 70)), "a.png", ("JPEG in a .png",)),
        (encode(draw(2, 90, 70, "P"), "PNG"), "a.png", ("palette",)),
        (encode(draw(2, 90, 70, "RGBA"), "PNG"), "a.JPEG", ("PNG in a .JPEG", "alpha")),
    ],
)
def test_other_modes_than_rgb_are_converted_and_the_repair_named(
    data: bytes, name: str, repairs: tuple[str, ...]
) -> None:
    image, found = convert(data, name, 64)
    assert found == repairs
    expected, _ = convert(encode(Image.open(io.BytesIO(data)).convert("RGB"), "PNG"), "a.png", 64)
    np.testing.assert_array_equal(image, expected)


def test_a_16_bit_image_keeps_its_brightness() -> None:
    grey = Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16))
    image, repairs = convert(encode(grey, "PNG"), "a.png", 32)
    assert repairs == ("16-bit greyscale",)
    assert (image == 40_000 // 256).all()


def test_exif_orientation_is_ignored() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    upright, _ = convert(encode(draw(3, 80, 60)), "a.JPEG", 64)
    image, repairs = convert(encode(draw(3, 80, 60), exif=turned), "a.JPEG", 64)
    np.testing.assert_array_equal(image, upright)
    assert repairs == ("EXIF orientation ignored",)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_an_image_is_turned_as_its_exif_orientation_says_when_asked(
    orientation: int, draft: bool, form: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 9 is none
    data = encode(draw(3, 203, 151), form, exif=exif)
    image, repairs = convert(data, f"a.{form}", 32, draft, upright=True)
    # another program's turn, then this one's square
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected, _ = convert(encode(turned, "PNG"), "a.png", 32)
    if draft and orientation in (1, 9):
        assert np.abs(image.astype(int) - expected).max() <= 6
    else:
        np.testing.assert_array_equal(image, expected)
    done = {1: (), 9: ("EXIF orientation ignored",)}
    assert repairs == done.get(orientation, ("EXIF orientation applied",))


def test_damaged_exif_data_turn_nothing() -> None:
    data = encode(draw(4, 80, 60), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    image, repairs = convert(data, "a.jpg", 64, upright=True)
    np.testing.assert_array_equal(image, convert(data, "a.jpg", 64)[0])
    assert repairs == ("corrupt EXIF",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>404 Not Found</html>",
        encode(draw(4, 200, 200))[:1500],
        encode(draw(4, 50, 50), "PPM"),
        encode(Image.new("1", (9500, 9500)), "PNG"),
    ],
    ids=["empty", "html", "cut off", "PNM", "decompression bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # Pillow warns, convert refuses
def test_unreadable_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        convert(data, "a.JPEG", 64)


@pytest.mark.parametrize("size", [(517, 389), (401, 700), (1300, 256)])
def test_the_decoders_own_downscaling_shows_the_same_image_without_a_shift(size: tuple[int, int]) -> None:
    data = encode(draw(5, *size), quality=95)
    exact, _ = convert(data, "a.JPEG", 64)
    drafted, _ = convert(data, "a.JPEG", 64, draft=True)
    assert not np.array_equal(drafted, exact)  # or it would do nothing
    error = np.abs(drafted.astype(int) - exact)
    assert error.max() <= 6
    shifted = np.abs(np.roll(drafted, 1, axis=1).astype(int) - exact)[:, 1:]
    assert error.mean() < 0.25 * shifted.mean()  # half a pixel would give half of it


def test_the_decoder_shrinks_no_image_below_twice_the_result_and_no_png() -> None:
    for data in (encode(draw(6, 255, 700)), encode(draw(6, 600, 700), "PNG")):
        exact, _ = convert(data, "a.JPEG", 64)
        drafted, _ = convert(data, "a.JPEG", 64, draft=True)
        np.testing.assert_array_equal(drafted, exact)
