import contextlib
import json
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.errors import UserError
from preprocess.plan import find_plan, load_plan
from preprocess.shards.readback import ReadBack
from preprocess.shards.records import finished_record
from preprocess.store import StoreError, open_store
from tests.damage import damaged
from tests.preprocess.helpers import SHARD_LENGTH, SIZE, content, stage


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
        UserError,
        match=f"{copy / name} has (the shape|3 dimensions) .* not .*run `python -m preprocess.verify",
    ):
        open_store(copy)


def change(path: Path, *keys: str | int, **values: object) -> None:
    """Set values within a JSON file, below these keys; `REMOVED` removes one."""
    whole = json.loads(path.read_text())
    inner = whole
    for key in keys:
        inner = inner[key]
    for name, value in values.items():
        inner[name] = value
        if value is REMOVED:
            del inner[name]
    path.write_text(json.dumps(whole))


REMOVED = object()
PARTS = ("", "train", "val", "train/images", "val/labels", "statistics/mean", "statistics/eigenvalues")


HALF = (b"", b"{", b"[]", b"null", b"3", b"{}", b"\xff", b"[" * 100_000)


@pytest.mark.parametrize(
    ("part", "half"),
    [*((part, b'{"attributes": {') for part in PARTS), *(("val", half) for half in HALF)],
)
def test_metadata_that_is_half_there_is_a_sentence_whose_remedy_works(
    copy: Path, part: str, half: bytes, store: Path
) -> None:
    (copy / part / "zarr.json").write_bytes(half)
    with pytest.raises(StoreError, match=f"zarr.json .*: run `python -m preprocess.verify --store {copy}`"):
        open_store(copy)
    assert_verify_repairs(copy, store)


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_folder_in_place_of_metadata_is_a_sentence(copy: Path, part: str) -> None:
    (copy / part / "zarr.json").unlink()
    (copy / part / "zarr.json").mkdir()
    with pytest.raises(StoreError, match=r"zarr.json is a folder, not a file: run"):
        open_store(copy)


def assert_verify_repairs(copy: Path, store: Path) -> None:
    """Verify makes the store whole, or says what does, and then that does."""
    done = stage("verify", "--store", copy)
    if done.returncode:
        assert "error: " in done.stderr
        assert "run `snakemake preprocess`" in done.stderr
        assert not (copy / ".preprocess" / "index.json").exists()  # so Snakemake runs stage 1 and all others
        imagenet = Path(json.loads((store / ".preprocess" / "plan.json").read_text())["source"])
        flags = ("--image-size", SIZE, "--shard-length", SHARD_LENGTH)
        made = [shard(copy, number).stat().st_mtime_ns for number in range(5)]
        for name, *more in (("index", "--imagenet", imagenet, *flags), ("statistics",), ("verify",)):
            done = stage(name, "--store", copy, *more)
            assert done.returncode == 0, done.stderr
        assert made == [shard(copy, number).stat().st_mtime_ns for number in range(5)]  # no shard was made
    assert open_store(copy).fingerprint == open_store(store).fingerprint
    assert content(copy) == content(store)


@pytest.mark.parametrize(
    ("part", "keys", "values", "words"),
    [
        ("", ["attributes"], {"classes": REMOVED}, "has no classes"),
        ("", ["attributes"], {"classes": "abc"}, 'has classes = "abc", which is not a list of text'),
        ("", ["attributes"], {"classes": ["n01"]}, "has labels outside of 0 to 0"),
        ("", ["attributes"], {"class_names": ["one"]}, "has 1 names of 3 classes"),
        ("", ["attributes"], {"image_size": "224"}, "which is not a whole number"),
        ("", ["attributes"], {"image_size": 225}, "has the shape"),
        ("", ["attributes"], {"fingerprint": 3}, "which is not text"),
        ("", [], {"attributes": []}, "which is not an object"),
        ("train", ["attributes"], {"shard_bytes": REMOVED}, "has no shard_bytes"),
        ("train", ["attributes"], {"shard_bytes": [None]}, "which is not a whole number"),
        ("train/images", [], {"data_type": "int8"}, "has 4 dimensions of int8, not 4 of uint8"),
        ("train/images", [], {"shape": [72]}, "train/images cannot be opened"),
        ("train/images", [], {"codecs": REMOVED}, "train/images cannot be opened"),
        ("train/images", [], {"codecs": 3}, "train/images cannot be opened"),
        ("val/labels", [], {"data_type": "int32"}, "has 1 dimensions of int32, not 1 of int16"),
        ("val/labels", [], {"shape": [17]}, "val/"),
        ("statistics/mean", [], {"data_type": "uint8"}, "has 3 dimensions of uint8, not 3 of float32"),
    ],
)
def test_metadata_of_another_kind_is_a_sentence_whose_remedy_works(
    copy: Path, part: str, keys: list[str], values: dict[str, object], words: str, store: Path
) -> None:
    change(copy / part / "zarr.json", *keys, **values)
    with pytest.raises(
        StoreError, match=f"{re.escape(words)}.*run `python -m preprocess.verify --store {copy}`"
    ):
        open_store(copy)
    assert_verify_repairs(copy, store)


@pytest.mark.parametrize("half", [b"", b"[]", b'{"seed": ', None])
@pytest.mark.parametrize("name", ["plan.json", "train.npy"])
def test_a_plan_that_is_half_there_is_a_sentence_whose_remedy_works(
    copy: Path, name: str, half: bytes | None, store: Path
) -> None:
    path = copy / ".preprocess" / name
    path.unlink()
    if half is not None:
        path.write_bytes(half)
    done = stage("statistics", "--store", copy) if name == "plan.json" else stage("verify", "--store", copy)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "preprocess" in done.stderr
    assert_verify_repairs(copy, store)


@pytest.mark.parametrize("values", [{"seed": 1}, {"classes": ["n01"]}, {"counts": {}}, {"identity": "0"}])
def test_a_plan_with_another_value_is_found(copy: Path, values: dict[str, object], store: Path) -> None:
    change(copy / ".preprocess" / "plan.json", **values)
    done = stage("verify", "--store", copy)
    assert done.stderr.startswith("error: the plan must be made again, run `snakemake preprocess`")
    assert_verify_repairs(copy, store)


@pytest.mark.parametrize("half", [b"", b"PK", b"PK\x03\x04 and more", None])
def test_pixel_sums_that_are_half_there_have_their_shard_made_again(copy: Path, half: bytes | None) -> None:
    path = copy / ".preprocess" / "records" / "train" / "00001.npz"
    path.unlink()
    if half is not None:
        path.write_bytes(half)
    done = stage("statistics", "--store", copy)
    state = "missing" if half is None else "damaged"
    assert f"error: {path} is {state}: run `python -m preprocess.verify --store {copy}`" in done.stderr
    done = stage("verify", "--store", copy)
    assert f"1 of 7 shards must be made again, run `snakemake preprocess`: {shard(copy, 1)}" in done.stderr
    assert not (copy / ".preprocess" / "shards.json").exists()


same = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@same
@given(part=st.sampled_from(PARTS), data=st.data())
def test_whatever_metadata_holds_a_store_opens_or_there_is_a_sentence(
    copy: Path, part: str, data: st.DataObject
) -> None:
    path = copy / part / "zarr.json"
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    try:
        with contextlib.suppress(StoreError):
            opened = open_store(copy)
            opened.train.read(np.array([0, 71]))
            opened.val.read(np.array([0, 17]))
    finally:
        path.write_bytes(whole)


@same
@given(name=st.sampled_from(["plan.json", "records/val/00000.json", "read-back.json"]), data=st.data())
def test_whatever_the_plan_and_the_records_hold_they_are_read_or_there_is_a_sentence(
    copy: Path, name: str, data: st.DataObject
) -> None:
    path = copy / ".preprocess" / name
    plan, whole = load_plan(copy), path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    try:
        with contextlib.suppress(UserError):
            find_plan(copy)
        finished_record(copy, plan, "val", 0)
        ReadBack(copy).unchanged("val", 0)
    finally:
        path.write_bytes(whole)
