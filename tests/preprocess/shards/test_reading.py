"""The reader in C and the reader in Python give the same bytes and the same errors."""

import errno
import os
from pathlib import Path

import crc32c
import numpy as np
import pytest

from preprocess.shards import reading

pytestmark = pytest.mark.skipif(reading._read is None, reason="shards/_read.c is not built: no x86-64?")
WAYS = {"compiled": getattr(reading._read, "images", None), "one by one": reading.read_one_by_one}


def written(path: Path, images: np.ndarray) -> np.ndarray:
    """A file of images, each with its checksum, and where each begins."""
    pieces = [p.tobytes() + crc32c.crc32c(p.tobytes()).to_bytes(4, "little") for p in images]
    path.write_bytes(b"".join(pieces))
    return np.arange(len(pieces), dtype=np.int64) * len(pieces[0])


def random_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (count, size), dtype=np.uint8)


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("size", [1, 7, 8, 4_096, 12_287, 12_288, 12_289, 50_000, 256 * 256 * 3])
def test_images_come_as_they_were_written_in_any_order(read, size, tmp_path):
    images = random_images(5, size)
    offsets = written(tmp_path / "shard", images)
    order = np.array([3, 0, 4, 4, 1])
    out = np.zeros((5, size), np.uint8)
    with (tmp_path / "shard").open("rb") as file:
        assert read(np.full(5, file.fileno()), offsets[order], out) is None
    np.testing.assert_array_equal(out, images[order])


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("place", [0, 4_095, 4_096, 12_287, 12_288, 24_580, 49_999, 50_003])
def test_a_flipped_bit_is_found_at_any_place(read, place, tmp_path):
    path = tmp_path / "shard"
    offsets = written(path, random_images(3, 50_000))
    data = bytearray(path.read_bytes())
    data[offsets[1] + place] ^= 4
    path.write_bytes(data)
    with path.open("rb") as file:
        found = read(np.full(3, file.fileno()), offsets, np.empty((3, 50_000), np.uint8))
    assert found == (1, reading.DIFFERS)


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
def test_a_short_file_and_an_unreadable_file_give_different_reasons(read, tmp_path):
    path = tmp_path / "shard"
    offsets = written(path, random_images(3, 5_000))
    os.truncate(path, path.stat().st_size - 1)
    out = np.empty((3, 5_000), np.uint8)
    with path.open("rb") as file:
        assert read(np.full(3, file.fileno()), offsets, out) == (2, reading.ENDS_WITHIN)
        assert read(np.full(2, file.fileno()), offsets[:2], out[:2]) is None
    with path.open("ab") as file:  # for writing alone
        assert read(np.full(3, file.fileno()), offsets, out) == (0, errno.EBADF)


def test_arguments_of_different_lengths_are_refused():
    numbers, out = np.zeros(3, np.int64), np.empty((3, 10), np.uint8)
    for wrong in (
        (numbers[:2], numbers, out),
        (numbers[:0], numbers[:0], out),
        (numbers, numbers, out[:, 0].copy()[:2]),
    ):
        with pytest.raises(ValueError, match="as many descriptors"):
            reading._read.images(*wrong)


def test_without_the_extension_a_store_reads_the_same(tiny_store, monkeypatch):
    from preprocess.store import open_store

    train = open_store(tiny_store).train
    indices = np.random.default_rng(1).integers(0, len(train), 40)
    expected = train.read(indices)
    monkeypatch.setattr(reading, "_read", None)
    np.testing.assert_array_equal(train.read(indices), expected)
