"""Incomplete sources, the full set's counts and MD5 sums, and the cache of archives."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from preprocess.errors import UserError
from preprocess.sources import cache, official
from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR, check_md5, describe_extent
from preprocess.sources.recognise import recognise
from preprocess.sources.tables import Row, Source, table
from tests.preprocess.helpers import tar


def test_an_empty_class_folder_is_an_error(tmp_path: Path) -> None:
    for folder in ("train/ape", "train/cat", "val"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train/ape/1.jpg").write_bytes(b"a")
    with pytest.raises(UserError, match="has no image in train/cat/, val/: put images there, or remove"):
        recognise(tmp_path)


def counted(train: int, val: int, classes: int = 1000) -> Source:
    """A source of so many images."""
    rows = table([Row("a", 0, 0, 1, 0)])
    names = tuple(f"n{number:08d}" for number in range(classes))
    return Source(
        kind="class folders",
        root=Path("somewhere"),
        archives=(),
        classes=names,
        class_names=None,
        train=np.zeros(train, rows.dtype),
        val=np.zeros(val, rows.dtype),
    )


def test_the_full_set_is_recognised_by_its_counts_and_any_other_is_a_subset() -> None:
    assert describe_extent(counted(1_281_167, 50_000)) == "the full ILSVRC-2012"
    assert describe_extent(counted(1_281_167, 0)) == "the full ILSVRC-2012 without its validation part"
    assert describe_extent(counted(2_000, 400, 10)) == (
        "a subset of ILSVRC-2012's size: 2,000 of 1,281,167 train images, 400 of 50,000 val images, "
        "10 of 1,000 classes"
    )
    nearly = counted(1_281_166, 50_000)
    with pytest.raises(UserError, match=r"nearly the full .* 1,281,166 of 1,281,167 train .*subset=true"):
        describe_extent(nearly)
    assert describe_extent(nearly, subset=True).startswith("a subset")


def test_md5_sums_of_the_official_archives_are_compared_when_asked(
    official_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = recognise(official_set)
    with pytest.raises(UserError, match=rf"{TRAIN_TAR} has the MD5 sum .* not ILSVRC-2012's 1d675b47d978"):
        check_md5(source, tmp_path / "cache")
    sums = {
        name: hashlib.md5((official_set / name).read_bytes()).hexdigest()
        for name in (TRAIN_TAR, VAL_TAR, DEVKIT)
    }
    monkeypatch.setattr(official, "MD5", sums)
    check_md5(source, tmp_path / "cache")
    monkeypatch.setattr(hashlib, "md5", None)  # the second time nothing is read
    check_md5(source, tmp_path / "cache")
    with pytest.raises(UserError, match="verify_md5 is for the official tars"):
        check_md5(counted(1, 1), None)


def test_headers_of_an_unchanged_archive_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "train/cat/\udcff ö.jpg"  # a name in no encoding
    archive = tar(tmp_path / "a.tar", {"train/cat/1.jpg": b"a", odd: b"b", "train/x.txt": b""})
    read: list[Path] = []
    scan = cache.cached_members

    def members(path: Path) -> object:
        read.append(path)
        return official.members(path)

    first, second = (scan(archive, tmp_path / "cache", members) for _ in range(2))
    assert first == second
    assert first[1].name == odd
    assert len(read) == 1
    os.utime(archive, ns=(1, 1))
    assert scan(archive, tmp_path / "cache", members) == first
    assert len(read) == 2
    monkeypatch.setattr(cache, "RULES", cache.RULES + 1)  # as another version of this program
    assert scan(archive, tmp_path / "cache", members) == first
    assert len(read) == 3
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-30])
    assert scan(archive, tmp_path / "cache", members) == first
    assert len(read) == 4


def test_an_archive_that_changed_is_hashed_again(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    for data in (b"first", b"the second"):
        archive.write_bytes(data)
        for _ in range(2):
            assert cache.md5(archive, tmp_path / "cache") == hashlib.md5(data).hexdigest()
        assert cache.md5(archive, None) == hashlib.md5(data).hexdigest()


@pytest.mark.parametrize(
    "half", [b"", b"{", b"[]", b"null", b"\xff", b'{"md5": "0"}', b'{"stamp": [1, 2]}', b'{"stamp": 3}']
)
def test_a_cached_sum_that_is_half_there_is_made_again(half: bytes, tmp_path: Path) -> None:
    (archive := tmp_path / "a.tar").write_bytes(b"data")
    (tmp_path / "a.tar.md5.json").write_bytes(half)
    for _ in range(2):
        assert cache.md5(archive, tmp_path) == hashlib.md5(b"data").hexdigest()


def test_progress_counts_every_member_and_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[object, list[int]]] = []

    class Bar:
        def __init__(self, *shown: object, **_: bool) -> None:
            self.steps: list[int] = []
            bars.append((shown, self.steps))

        def update(self, step: int) -> None:
            self.steps.append(step)

        def close(self) -> None:
            pass

    monkeypatch.setattr(cache.progress, "counter", Bar)
    monkeypatch.setattr(cache, "PIECE", 4096)
    archive = tar(tmp_path / "a.tar", {"1.jpg": b"a", "2.jpg": b"b"})
    assert archive.stat().st_size == 10_240
    cache.cached_members(archive, None, official.members)
    cache.md5(archive, None)
    assert bars == [
        ((" members", None, "a.tar"), [1, 1]),
        (("B", 10_240, "md5 a.tar"), [4096, 4096, 2048]),
    ]


@pytest.mark.parametrize(
    ("train", "val", "classes", "nearly"),
    [
        (1_281_167 - 1281, 50_000, 1000, True),  # 0.1 % of 1,281,167 are 1281.2
        (1_281_167 - 1282, 50_000, 1000, False),
        (1_281_167 + 1, 50_000, 1000, True),
        (1_281_167, 50_000 - 49, 1000, True),  # 0.1 % of 50,000 are 50
        (1_281_167, 50_000 - 50, 1000, False),
        (1_281_167, 50_000 + 50, 1000, False),
        (1_281_166, 50_000, 999, False),
        (1_281_167, 50_000, 999, False),
        (2000, 0, 1000, False),
        (2000, 50_000, 1000, False),
    ],
)
def test_a_set_that_differs_by_less_than_a_thousandth_is_nearly_the_full_one(
    train: int, val: int, classes: int, nearly: bool
) -> None:
    source = counted(train, val, classes)
    if nearly:
        with pytest.raises(UserError, match="is nearly the full ILSVRC-2012"):
            describe_extent(source)
    else:
        assert describe_extent(source).startswith("a subset of ILSVRC-2012's size")
