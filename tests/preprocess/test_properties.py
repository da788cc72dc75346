"""Properties of resize, checksums and skipping, tested on random examples (hypothesis)."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from preprocess.pictures import resize
from preprocess.shards.checksums import crc32c_of
from preprocess.shards.layout import damaged_images, encode_shard
from preprocess.shards.writing import write_large
from preprocess.skip import fill_gaps

# in the same order on every machine, and no judgement on speed
same = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONGEST, PIXELS = 20_000, 60_000


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Width and height, 1x1 to 20,000x3 and 3x20,000."""
    one = draw(st.integers(1, LONGEST))
    other = draw(st.integers(1, max(1, PIXELS // one)))
    return (one, other) if draw(st.booleans()) else (other, one)


@same
@given(sizes(), st.integers(1, 24), st.sampled_from((2**24, 5_000, 1)), st.integers(0, 2**32 - 1))
def test_any_size_gets_the_pixels_of_pillows_own_calls(
    size: tuple[int, int], side: int, strip: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    scale = side / min(size)
    width, height = (math.floor(length * scale + 0.5 + 1e-9) for length in size)  # rounded, halves up
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    expected = image.resize((width, height), Image.Resampling.BICUBIC).crop(box)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "STRIP", strip)
        made = resize.resize_and_crop(image, side)
    assert made.tobytes() == expected.tobytes()


@same
@given(count=st.integers(1, 6), spare=st.integers(0, 3), side=st.integers(1, 9), data=st.data())
def test_any_flipped_bit_is_found_and_its_image_named(
    count: int, spare: int, side: int, data: st.DataObject, tmp_path: Path
) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    path = tmp_path / "shard"
    written = write_large(path, encode_shard(images, count + spare))
    assert written.crc32c == crc32c_of(path)
    assert damaged_images(path, count, side) == []
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    assert crc32c_of(path) != written.crc32c
    slot = place // (side * side * 3 + 4)  # a checksum of four bytes follows each image
    assert damaged_images(path, count, side) == ([slot] if slot < count else [])


@same
@given(st.lists(st.booleans(), max_size=60))
def test_readable_rows_are_kept_once_and_most_of_them_in_place(unreadable: list[bool]) -> None:
    rows = np.array([(number,) for number in range(len(unreadable))], dtype=[("name", "i4")])
    bad = np.array(unreadable, dtype=bool)
    names = fill_gaps(rows, bad)["name"].tolist()
    assert sorted(names) == np.flatnonzero(~bad).tolist()
    assert sum(name != place for place, name in enumerate(names)) <= bad.sum()
