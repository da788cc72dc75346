"""The bytes of images come in order and are prefetched, and no file stays open."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocess.pictures.fetch import AHEAD, fetch
from preprocess.pictures.images import MAX_BYTES, UnreadableError
from preprocess.plan import Plan
from preprocess.sources.tables import Row, table

BEGINNING = 7  # bytes of an archive before its first image
PLAN = Plan(
    kind="class folders",
    source="",
    archives=(),
    classes=("n01",),
    class_names=None,
    image_size=8,
    shard_length=64,
    draft=False,
    seed=0,
    counts={},
)
CONTENTS = [bytes([number]) * (number % 5) for number in range(3 * AHEAD)]  # each fifth is empty
NAMES = [f"{number:02d}.JPEG" for number in range(len(CONTENTS))]


@pytest.fixture(params=["archive", "files"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Plan, np.ndarray]:
    """The same images one after the other in an archive, or each in a file."""
    in_archive = request.param == "archive"
    begins = BEGINNING + np.cumsum([0, *map(len, CONTENTS)]) if in_archive else np.zeros(len(CONTENTS), int)
    for name, content in zip(NAMES, CONTENTS, strict=True):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "all").write_bytes(bytes(BEGINNING) + b"".join(CONTENTS))
    rows = table(
        Row(name, 0 if in_archive else -1, int(begin), len(content), 0)
        for name, begin, content in zip(NAMES, begins, CONTENTS, strict=False)
    )
    return replace(PLAN, source=str(tmp_path), archives=("all",) if in_archive else ()), rows


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_images_come_in_order(source: tuple[Plan, np.ndarray]) -> None:
    before = open_files()
    assert [(wanted.name, wanted.read()) for wanted in fetch(*source)] == [*zip(NAMES, CONTENTS, strict=True)]
    assert open_files() == before


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no hints")
def test_images_are_prefetched_in_order(
    source: tuple[Plan, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    real = os.posix_fadvise

    def recorded(handle: int, offset: int, length: int, advice: int) -> None:
        asked.append((offset, length))
        real(handle, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", recorded)
    for number, wanted in enumerate(fetch(*source)):
        by_now = source[1][: number + AHEAD + 1]
        assert asked == [(row["offset"], row["length"]) for row in by_now if row["length"]]
        wanted.close()


def test_stopping_early_leaves_no_file_open(source: tuple[Plan, np.ndarray]) -> None:
    before = open_files()
    images = fetch(*source)
    next(images).read()
    images.close()
    assert open_files() == before


def test_a_file_that_became_shorter_is_unreadable(source: tuple[Plan, np.ndarray]) -> None:
    source[1]["length"][-1] += 1
    for number, wanted in enumerate(fetch(*source)):
        if number < len(CONTENTS) - 1:
            wanted.close()
            continue
        with pytest.raises(UnreadableError, match="shorter than when it was indexed"):
            wanted.read()


def test_a_file_longer_than_the_limit_is_not_read(source: tuple[Plan, np.ndarray]) -> None:
    source[1]["length"][0] = MAX_BYTES + 1
    with pytest.raises(UnreadableError, match="more than"):
        next(fetch(*source)).read()
