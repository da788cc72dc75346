import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from preprocess.errors import UserError
from preprocess.store import open_store
from tests.preprocess.helpers import SIZE


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copy.zarr"))


def shard(store: Path, number: int) -> Path:
    return store / "train" / "images" / "c" / str(number) / "0" / "0" / "0"


def test_reading_gives_what_zarr_gives_in_any_order_with_repeats_and_in_threads(store: Path) -> None:
    opened = open_store(store)
    expected = zarr.open_group(store, mode="r")["train/images"][:]
    indices = np.random.default_rng(0).integers(0, len(opened.train), 200)
    results: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: results.update({n: opened.train.read(indices[n * 50 : n * 50 + 50])})
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate([results[n] for n in range(4)]), expected[indices])
    assert results[0].dtype == np.uint8
    assert opened.train.read(np.array([], dtype=np.int64)).shape == (0, SIZE, SIZE, 3)
    assert opened.mean.dtype == np.float32
    assert opened.train.labels.dtype == np.int16


def test_an_index_outside_of_the_split_is_refused(store: Path) -> None:
    opened = open_store(store)
    for index in (-1, len(opened.val)):
        with pytest.raises(IndexError, match="has images 0 to 17"):
            opened.val.read(np.array([0, index]))


def test_a_missing_shard_is_named_and_not_read_as_black(copy: Path) -> None:
    opened = open_store(copy)
    shard(copy, 2).unlink()
    with pytest.raises(UserError, match=str(shard(copy, 2))):
        opened.train.read(np.array([2 * 16]))
    with pytest.raises(UserError, match=f"shard {shard(copy, 2)} is missing: run"):
        open_store(copy)


def test_a_shard_cut_short_is_named(copy: Path) -> None:
    data = shard(copy, 0).read_bytes()
    shard(copy, 0).write_bytes(data[:-10])
    with pytest.raises(UserError, match=f"has {len(data) - 10} bytes instead of {len(data)}"):
        open_store(copy)


def test_a_flipped_bit_is_found_when_its_image_is_read(copy: Path) -> None:
    data = bytearray(shard(copy, 1).read_bytes())
    data[3 * (SIZE * SIZE * 3 + 4) + 77] ^= 1
    shard(copy, 1).write_bytes(data)
    opened = open_store(copy)
    opened.train.read(np.array([16 + 2]))
    expected = f"image 19 in shard {shard(copy, 1)} does not match its checksum: run"
    with pytest.raises(UserError, match=expected):
        opened.train.read(np.array([16 + 3]))


def test_a_flipped_bit_in_the_index_of_a_shard_is_found(copy: Path) -> None:
    data = bytearray(shard(copy, 1).read_bytes())
    data[-4 - 16 * 10] ^= 1  # of 16 entries with 16 bytes each, and 4 of checksum
    shard(copy, 1).write_bytes(data)
    with pytest.raises(UserError, match=f"the index of shard {shard(copy, 1)} does not match its checksum"):
        open_store(copy).train.read(np.array([16]))


def test_a_shard_that_loses_its_end_while_it_is_open_is_named(copy: Path) -> None:
    opened = open_store(copy)
    opened.train.read(np.array([16]))
    data = shard(copy, 1).read_bytes()
    os.truncate(shard(copy, 1), len(data) // 2)
    with pytest.raises(UserError, match=f"shard {shard(copy, 1)} ends within image 31: run"):
        opened.train.read(np.array([31]))


def test_more_shards_than_may_be_open_are_read_in_turns(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.shards.reading.OPEN_SHARDS", 2)
    opened = open_store(store)
    indices = np.random.default_rng(1).permutation(len(opened.train))  # of five shards
    expected = zarr.open_group(store, mode="r")["train/images"][:][indices]
    np.testing.assert_array_equal(opened.train.read(indices), expected)
    held = [file.resolve() for file in Path("/proc/self/fd").iterdir()]
    assert len([file for file in held if file.is_relative_to(store)]) == 2


def test_a_missing_and_an_unfinished_store_are_errors_that_say_what_to_run(
    copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"there is no store at .*run `snakemake preprocess`"):
        open_store(tmp_path / "none.zarr")
    metadata = copy / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"fingerprint"', '"other"'))
    with pytest.raises(ValueError, match="is not finished: run `snakemake preprocess`"):
        open_store(copy)


@pytest.mark.parametrize("name", ["train/images", "val/images", "statistics/mean", "statistics/eigenvectors"])
def test_parts_of_another_shape_are_named_before_anything_is_read(
    copy: Path, tmp_path: Path, name: str
) -> None:
    if name.endswith("images"):  # one image more than there are labels
        metadata = json.loads((copy / name / "zarr.json").read_text())
        metadata["shape"][0] += 1
        (copy / name / "zarr.json").write_text(json.dumps(metadata))
    else:
        shutil.rmtree(copy / name)
        zarr.create_array(copy, name=name, data=np.ones((100, 100, 3), np.float32))
    with pytest.raises(
        UserError, match=f"{copy / name} has the shape .* not .*run `python -m preprocess.verify"
    ):
        open_store(copy)
