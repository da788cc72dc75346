"""The bytes of images come in order and are prefetched, and no file stays open."""

import errno
import os
from dataclasses import replace
from io import FileIO
from pathlib import Path

import numpy as np
import pytest

from preprocess.containers import files as module
from preprocess.containers.fetch import AHEAD, fetch
from preprocess.errors import UnreadableError, UserError
from preprocess.plan import Plan
from preprocess.shared.image_files import MAX_BYTES
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
NO_STORE = Path("no/store")  # these archives need no index
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
    assert [(wanted.name, wanted.read()) for wanted in fetch(NO_STORE, *source)] == [
        *zip(NAMES, CONTENTS, strict=True)
    ]
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
    for number, wanted in enumerate(fetch(NO_STORE, *source)):
        by_now = source[1][: number + AHEAD + 1]
        assert asked == [(row["offset"], row["length"]) for row in by_now if row["length"]]
        wanted.close()


def test_stopping_early_leaves_no_file_open(source: tuple[Plan, np.ndarray]) -> None:
    before = open_files()
    images = fetch(NO_STORE, *source)
    next(images).read()
    images.close()
    assert open_files() == before


def test_a_file_that_became_shorter_is_unreadable(source: tuple[Plan, np.ndarray]) -> None:
    source[1]["length"][-1] += 1
    for number, wanted in enumerate(fetch(NO_STORE, *source)):
        if number < len(CONTENTS) - 1:
            wanted.close()
            continue
        with pytest.raises(UnreadableError, match="shorter than when it was indexed"):
            wanted.read()


def test_a_file_longer_than_the_limit_is_not_read(source: tuple[Plan, np.ndarray]) -> None:
    source[1]["length"][0] = MAX_BYTES + 1
    with pytest.raises(UnreadableError, match="more than"):
        next(fetch(NO_STORE, *source)).read()


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Plan, np.ndarray]:
    """Three images in one folder, of which the second is missing."""
    names = [f"train/cat/{number}.jpg" for number in range(3)]
    (tmp_path / "train/cat").mkdir(parents=True)
    for name in (names[0], names[2]):
        (tmp_path / name).write_bytes(b"abc")
    return replace(PLAN, source=str(tmp_path)), table(Row(name, -1, 0, 3, 0) for name in names)


def read_all(source: tuple[Plan, np.ndarray]) -> list[bytes | str]:
    """The bytes of each image, or why it is unreadable."""
    found: list[bytes | str] = []
    for wanted in fetch(NO_STORE, *source):
        try:
            found.append(wanted.read())
        except UnreadableError as error:
            found.append(str(error))
    return found


def refuse_opening(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let opening a file fail with this error."""

    class Refusing(FileIO):
        def __init__(self, path: Path) -> None:
            if path.name == name:
                raise OSError(number, os.strerror(number), str(path))
            super().__init__(path)

    monkeypatch.setattr(module, "FileIO", Refusing)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.ENOENT])
def test_an_image_that_cannot_be_opened_is_unreadable(
    number: int, folder: tuple[Plan, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_opening(monkeypatch, "1.jpg", number)
    before = open_files()
    assert read_all(folder) == [b"abc", f"cannot be read: {os.strerror(number)}", b"abc"]
    assert open_files() == before


def test_an_image_that_is_missing_or_became_a_folder_is_unreadable(folder: tuple[Plan, np.ndarray]) -> None:
    assert read_all(folder) == [b"abc", "cannot be read: No such file or directory", b"abc"]
    Path(folder[0].source, "train/cat/1.jpg").mkdir()
    assert read_all(folder) == [b"abc", "cannot be read: Is a directory", b"abc"]


def test_an_image_on_a_damaged_disk_is_unreadable(
    source: tuple[Plan, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", failing)
    assert set(read_all(source)) == {"cannot be read: Input/output error"}


def test_too_many_open_files_are_no_fault_of_the_image(
    folder: tuple[Plan, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_opening(monkeypatch, "1.jpg", errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        read_all(folder)


@pytest.mark.parametrize("emptied", [False, True], ids=["removed", "not mounted"])
@pytest.mark.parametrize("place", ["", "train"])
def test_a_source_that_is_gone_is_named(place: str, emptied: bool, folder: tuple[Plan, np.ndarray]) -> None:
    gone = Path(folder[0].source, place)
    gone.rename(gone.with_name(f"{gone.name}-away"))
    if emptied:
        gone.mkdir()
    with pytest.raises(UserError, match=f"the images are gone: {folder[0].source}/train is no longer there"):
        read_all(folder)


def test_an_archive_that_is_gone_is_named(tmp_path: Path) -> None:
    plan = replace(PLAN, source=str(tmp_path), archives=("all.tar",))
    rows = table([Row("1.jpg", 0, 0, 1, 0)])
    with pytest.raises(
        UserError, match=rf"{tmp_path}/all\.tar cannot be opened \(No such file or directory\)"
    ):
        read_all((plan, rows))
