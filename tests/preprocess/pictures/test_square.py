"""_square.c gives the same bytes as Pillow for sound JPEGs, and leaves all other files to Pillow."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preprocess.errors import UnreadableError
from preprocess.pictures import resize
from preprocess.pictures.images import MAX_PIXELS, convert
from tests.preprocess.helpers import draw, encode

pytestmark = pytest.mark.skipif(
    not resize.COMPILED, reason="preprocess/pictures/_square.c was not built, or PIL is not Pillow-SIMD"
)
same = settings(derandomize=True, deadline=None, max_examples=300)


def by_pillow(data: bytes, side: int) -> bytes:
    """The central square by Pillow's own calls."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = resize.resized_size(image.size, side)
    left, top = (width - side) // 2, (height - side) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side)).tobytes()


def by_extension(data: bytes, side: int) -> bytes | None:
    made = resize.square_of_jpeg(data, side, MAX_PIXELS)
    return made and made.pixels


def both_ways(data: bytes, side: int) -> list[bytes | None]:
    """With vector instructions, and without."""
    made = [resize._square.square(data, side, MAX_PIXELS, resize.STRIP, plain) for plain in (False, True)]
    return [found and found[0] for found in made]


def test_it_decodes_images_up_to_its_limit_of_pixels() -> None:
    data = encode(draw(1, 90, 70))
    assert resize.square_of_jpeg(data, 64, 6300) == (by_pillow(data, 64), (90, 70), False, False)
    assert resize.square_of_jpeg(data, 64, 6299) is None


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (1023, 257), (64, 700), (17, 9), (256, 256), (1, 5)]
)
def test_bytes_are_pillows_for_any_subsampling_and_scan(
    size: tuple[int, int], subsampling: str, progressive: bool
) -> None:
    data = encode(draw(3, *size), subsampling=subsampling, progressive=progressive, restart_marker_blocks=5)
    expected = by_pillow(data, 256)
    assert both_ways(data, 256) == [expected, expected]


@same
@given(
    st.tuples(st.integers(1, 900), st.integers(1, 300)),
    st.booleans(),
    st.integers(1, 300),
    st.sampled_from(("4:4:4", "4:2:2", "4:2:0")),
    st.integers(0, 2**32 - 1),
)
def test_bytes_are_pillows_for_any_size(
    size: tuple[int, int], high: bool, side: int, subsampling: str, seed: int
) -> None:
    size = size[::-1] if high else size
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), subsampling=subsampling)
    width, height = resize.resized_size(size, side)
    if width * height > 2**22:  # Pillow's own calls would take seconds
        return
    expected = by_pillow(data, side)
    assert both_ways(data, side) == [expected, expected]


def test_overshoot_is_clipped_as_by_pillow() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[::7, :, 0] = pixels[:, ::5, 1] = pixels[100:, 200:, 2] = 255  # the cubic overshoots at edges
    data = encode(Image.fromarray(pixels), quality=100, subsampling="4:4:4")
    expected = by_pillow(data, 256)
    assert {0, 255} <= set(expected)
    assert both_ways(data, 256) == [expected, expected]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_grey_image_is_red_green_and_blue_alike(progressive: bool) -> None:
    data = encode(draw(2, 500, 375, "L"), progressive=progressive)
    expected = by_pillow(data, 256)
    assert both_ways(data, 256) == [expected, expected]
    assert convert(data, "a.JPEG", 256)[1] == ("greyscale",)


@pytest.mark.parametrize(
    ("marker", "marked"),
    [
        ({"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, True),
        ({"icc_profile": b"of no colours"}, False),
        ({"comment": b"of nothing"}, False),
    ],
)
def test_only_exif_marks_an_image_for_pillow(marker: dict[str, bytes], marked: bool) -> None:
    made = resize.square_of_jpeg(encode(draw(2, 90, 70), **marker), 64, MAX_PIXELS)
    assert made
    assert made.marked == marked


def test_four_channels_are_left_to_pillow() -> None:
    assert both_ways(encode(draw(2, 90, 70, "CMYK")), 64) == [None, None]


def test_other_formats_are_left_to_pillow() -> None:
    for data in (b"", b"\xff", encode(draw(2, 90, 70), "PNG"), bytes(5000)):
        assert both_ways(data, 64) == [None, None]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged Exif
@pytest.mark.parametrize("marked", [False, True])
def test_damaged_files_give_the_same_result_as_with_pillow_alone(
    marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    more = {"exif": exif.tobytes(), "icc_profile": b"of no colours"} if marked else {}
    whole = encode(draw(5, 260, 190), subsampling="4:2:0", comment="of nothing", **more)
    pixels = whole.index(b"\xff\xda")
    rng = np.random.default_rng(6)
    damaged = [whole[: int(cut)] for cut in rng.integers(2, len(whole), 100)]
    places = [
        *range(pixels + 14),
        *rng.integers(pixels, len(whole), 300),
    ]  # each byte of the header, and some
    for place in places:
        values = {0, 255, int(rng.integers(256)), whole[place] ^ 1}
        damaged += [whole[:place] + bytes([value]) + whole[place + 1 :] for value in values]
    ours = [outcome(data) for data in damaged]
    left_alone = sum(by_extension(data, 64) is None for data in damaged)
    monkeypatch.setattr(resize, "COMPILED", False)
    expected = [outcome(data) for data in damaged]
    for place, (found, other) in enumerate(zip(ours, expected, strict=True)):
        assert found == other, place
    assert 100 < left_alone < len(damaged) - 100  # at least all that were cut


def outcome(data: bytes) -> object:
    """The pixels and repairs of an image, or why it has none."""
    try:
        image, repairs = convert(data, "a.JPEG", 64)
        return image.tobytes(), repairs
    except UnreadableError as error:
        return str(error)


def test_a_side_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="one pixel or more"):
        resize._square.square(encode(draw(1, 90, 70)), 0, MAX_PIXELS, resize.STRIP, False)


def test_threads_do_not_disturb_each_other() -> None:
    images = [encode(draw(seed, 300 + 10 * seed, 200)) for seed in range(8)]
    expected = [by_pillow(data, 100) for data in images]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: by_extension(images[i], 100), [*range(8)] * 20)
        assert list(found) == expected * 20


def test_memory_is_freed() -> None:
    whole = encode(draw(5, 400, 300))
    for data in (whole, whole[: len(whole) // 2]):
        both_ways(data, 128)
        before = psutil.Process().memory_info().rss
        for _ in range(500):
            both_ways(data, 128)
        assert psutil.Process().memory_info().rss - before < 10 * 2**20
