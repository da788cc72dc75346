import os
from pathlib import Path

import numpy as np
import pytest

from preprocess.errors import UserError
from preprocess.sources import class_folders
from preprocess.sources.class_folders import Shape, by_folder
from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR
from preprocess.sources.recognise import recognise
from preprocess.sources.tables import Entry, Source
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
    archive = recognise(tar(tmp_path.parent / "a.tar", images | others))
    for source in (folders, archive):
        assert source.classes == ("ape", "cat")
        assert bytes_of(source, "train") == {
            "train/ape/x.JPEG": (0, b"b"),
            "train/ape/y.png": (0, b"c"),
            "train/cat/1.jpg": (1, b"a" * 700),
        }
        assert bytes_of(source, "val") == {"val/cat/2.jpg": (1, b"d" * 30)}
        assert sorted(source.ignored) == [
            "train/README (not named as an image)",
            "train/ape/notes.txt (not named as an image)",
        ]
        assert source.hidden == 1


def test_errors_of_a_source_say_what_to_do(official_set: Path, tmp_path: Path) -> None:
    def refused(path: Path, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            recognise(path)

    refused(tmp_path / "nothing", "there is no ImageNet at .*imagenet=PATH")
    (official_set / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    refused(official_set, r"holds both the official tars \(.*\) and Kaggle's tree \(ILSVRC/Data/CLS-LOC\)")
    (official_set / "ILSVRC/Data/CLS-LOC").rmdir()
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


def test_images_of_their_own_files_and_of_archives_are_told_apart(official_set: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/train/cat").mkdir(parents=True)
    (tmp_path / "disk/train/cat/1.jpg").write_bytes(b"a")
    folders = recognise(tmp_path / "disk")
    archive = recognise(tar(tmp_path / "a.tar", {"train/cat/1.jpg": b"a"}))
    tars = recognise(official_set / TRAIN_TAR)
    kinds = ("class folders", "class folders in a tar", "official ILSVRC-2012 tars")
    assert tuple(source.kind for source in (folders, archive, tars)) == kinds
    assert (folders.train["file"].tolist(), archive.train["file"].tolist()) == ([-1], [0])
    assert (set(tars.train["file"]), set(tars.val["file"])) == ({0}, {1})


def test_the_first_five_names_of_an_unknown_folder_are_shown(tmp_path: Path) -> None:
    for name in "edcba":
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="but a, b, c, d, e: name the right place"):
        recognise(tmp_path)
    (tmp_path / "f").touch()
    with pytest.raises(UserError, match=r"but a, b, c, d, e, \.\.\.: name the right place"):
        recognise(tmp_path)


def test_the_first_five_empty_class_folders_are_named(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train/f/1.jpg").touch()
    with pytest.raises(UserError, match="no image in train/a/, train/b/, train/c/, train/d/, train/e/: put"):
        recognise(tmp_path)
    (tmp_path / "train/g").mkdir()
    with pytest.raises(UserError, match=r"train/d/, train/e/, \.\.\.: put"):
        recognise(tmp_path)


def test_folders_in_a_class_folder_are_passed_over_and_pipes_are_ignored(tmp_path: Path) -> None:
    cat = tmp_path / "train/cat"
    for number in range(8):
        (cat / f"{number}.folder.jpg").mkdir(parents=True)
        (cat / f"{number}.jpg").write_bytes(b"a")
    os.mkfifo(cat / "pipe.jpg")
    source = recognise(tmp_path)
    assert source.train["name"].tolist() == [f"train/cat/{number}.jpg".encode() for number in range(8)]
    assert source.ignored == ("train/cat/pipe.jpg (not a file)",)


def test_there_are_at_most_as_many_classes_as_int16_has_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.iinfo(np.int16).max + 1 == class_folders.MAX_CLASSES
    monkeypatch.setattr(class_folders, "MAX_CLASSES", 3)
    images = [Entry(f"train/{name}/1.jpg", 0, 1) for name in "abcd"]
    source = by_folder("class folders", Path("somewhere"), (), images[:3], Shape())
    assert (source.train["label"].tolist(), source.train["label"].dtype) == ([0, 1, 2], np.int16)
    with pytest.raises(UserError, match="somewhere holds 4 classes, more than 3: labels are int16"):
        by_folder("class folders", Path("somewhere"), (), images, Shape())


def test_an_image_outside_the_class_folders_is_ignored_with_a_reason(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"x/train/cat/1.jpg": b"a", "test/2.jpg": b"b", "3.jpg": b"c"})
    reason = "(not in train/<class>/ or val/<class>/)"
    assert recognise(path).ignored == (f"test/2.jpg {reason}", f"3.jpg {reason}")
    with pytest.raises(UserError, match=r"b\.tar holds no image under train/<class>/"):
        recognise(tar(tmp_path / "b.tar", {"test/2.jpg": b"b"}))


def test_the_first_unknown_class_of_the_validation_part_is_named(tmp_path: Path) -> None:
    images = {"train/a/1.jpg": b"a", "val/c/1.jpg": b"a", "val/b/1.jpg": b"a"}
    with pytest.raises(UserError, match=r"a\.tar has val/b but no train/b"):
        recognise(tar(tmp_path / "a.tar", images))
