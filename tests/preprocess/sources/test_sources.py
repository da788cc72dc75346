from pathlib import Path

import pytest

from preprocess.errors import UserError
from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR
from preprocess.sources.recognise import recognise
from preprocess.sources.tables import Source
from tests.preprocess.helpers import tar


def bytes_of(source: Source, split: str) -> dict[str, tuple[int, bytes]]:
    """Label and content of every image, read from where the source says that it lies."""
    found = {}
    for row in getattr(source, split):
        name = row["name"].decode()
        content = (source.root / (name if row["file"] < 0 else source.archives[row["file"]])).read_bytes()
        found[name] = int(row["label"]), content[row["offset"] : row["offset"] + row["length"]]
    return found


def test_official_tars_are_read_in_place_with_classes_in_sorted_order(official_set: Path) -> None:
    source = recognise(official_set)
    assert source.classes == ("n10", "n20", "n30")
    assert source.class_names == ("one", "two, deux", "three")
    assert bytes_of(source, "train") == {
        f"{wnid}/{wnid}_{number}.JPEG": (label, f"{wnid} {number}".encode() * 200)
        for label, wnid in enumerate(source.classes)
        for number in (3, 7)
    }
    # IDs 3, 1, 2, 2 are n10, n20, n30, n30
    assert bytes_of(source, "val") == {
        f"ILSVRC2012_val_{number:08d}.JPEG": (label, bytes([number]) * 9)
        for number, label in zip((1, 2, 3, 4), (0, 1, 2, 2), strict=True)
    }


def test_class_folders_are_the_same_on_disk_and_in_a_tar(tmp_path: Path) -> None:
    images = {
        "train/cat/1.jpg": b"a" * 700,
        "train/ape/x.JPEG": b"b",
        "train/ape/y.png": b"c",
        "val/cat/2.jpg": b"d" * 30,
    }
    others = {"train/ape/._x.JPEG": b"", "train/ape/notes.txt": b"", "train/README": b""}
    for name, data in (images | others).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    folders = recognise(tmp_path)
    archive = recognise(tar(tmp_path / "a.tar", images | others))
    for source in (folders, archive):
        assert source.classes == ("ape", "cat")
        assert bytes_of(source, "train") == {
            "train/ape/x.JPEG": (0, b"b"),
            "train/ape/y.png": (0, b"c"),
            "train/cat/1.jpg": (1, b"a" * 700),
        }
        assert bytes_of(source, "val") == {"val/cat/2.jpg": (1, b"d" * 30)}
    for source in (folders, archive):
        assert {entry.removesuffix(" (not named as an image)") for entry in source.ignored} == set(others)


def test_errors_of_a_source_say_what_to_do(official_set: Path, tmp_path: Path) -> None:
    def refused(path: Path, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            recognise(path)

    refused(tmp_path / "nothing", "there is no ImageNet at .*imagenet=PATH")
    (official_set / "train").mkdir()
    refused(official_set, r"holds both the official tars \(.*\) and class folders \(train\)")
    (official_set / "train").rmdir()
    (official_set / DEVKIT).unlink()
    refused(official_set, f"holds {TRAIN_TAR} and {VAL_TAR} but lacks {DEVKIT}")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "holds neither .* but nothing")
    (empty / "train").mkdir()
    refused(empty, "holds no image under train/<class>/")
    refused(
        tar(tmp_path / "a.tar.xz", {"train/cat/1.jpg": b""}, "w:xz"),
        "compressed with xz.*decompress it first",
    )
    refused(tar(tmp_path / "b.tar", {"train/a/1.jpg": b"", "val/b/1.jpg": b""}), "val/b but no train/b")
