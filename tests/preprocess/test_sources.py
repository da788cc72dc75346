import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from preprocess.errors import UserError
from preprocess.sources import DEVKIT, TRAIN_TAR, VAL_TAR, Source, recognise


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def bytes_of(source: Source, split: str) -> dict[str, tuple[int, bytes]]:
    """Label and content of every picture, read from where the source says that it lies."""
    found = {}
    for row in getattr(source, split):
        name = row["name"].decode()
        content = (source.root / (name if row["file"] < 0 else source.archives[row["file"]])).read_bytes()
        found[name] = int(row["label"]), content[row["offset"] : row["offset"] + row["length"]]
    return found


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Three classes whose IDs stand in another order than their names, and an inner node."""
    inner = {}
    for wnid in ("n30", "n10", "n20"):
        pictures = {f"{wnid}_{number}.JPEG": f"{wnid} {number}".encode() * 200 for number in (7, 3)}
        inner[f"{wnid}.tar"] = tar(tmp_path / "inner.tar", pictures).read_bytes()
    (tmp_path / "inner.tar").unlink()
    tar(tmp_path / TRAIN_TAR, inner)
    # in the tar the validation pictures stand in another order than their names
    tar(
        tmp_path / VAL_TAR,
        {f"ILSVRC2012_val_{number:08d}.JPEG": bytes([number]) * 9 for number in (2, 4, 1, 3)},
    )
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [
        (1, "n20", "two, deux", "", 0),
        (2, "n30", "three", "", 0),
        (3, "n10", "one", "", 0),
        (4, "n00", "all", "", 3),
    ]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    data = "ILSVRC2012_devkit_t12/data/"
    truth = {
        f"{data}meta.mat": meta.getvalue(),
        f"{data}ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n2\n",
    }
    tar(tmp_path / DEVKIT, truth, "w:gz")
    return tmp_path


def test_official_tars_are_read_in_place_with_classes_in_sorted_order(official: Path) -> None:
    source = recognise(official)
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
    pictures = {
        "train/cat/1.jpg": b"a" * 700,
        "train/ape/x.JPEG": b"b",
        "train/ape/y.png": b"c",
        "val/cat/2.jpg": b"d" * 30,
    }
    others = {"train/ape/._x.JPEG": b"", "train/ape/notes.txt": b"", "train/README": b""}
    for name, data in (pictures | others).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    folders = recognise(tmp_path)
    archive = recognise(tar(tmp_path / "a.tar", pictures | others))
    for source in (folders, archive):
        assert source.classes == ("ape", "cat")
        assert bytes_of(source, "train") == {
            "train/ape/x.JPEG": (0, b"b"),
            "train/ape/y.png": (0, b"c"),
            "train/cat/1.jpg": (1, b"a" * 700),
        }
        assert bytes_of(source, "val") == {"val/cat/2.jpg": (1, b"d" * 30)}
    assert archive.ignored == 3


def test_links_and_names_that_climb_out_are_never_pictures(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar", {"train/cat/1.jpg": b"a", "train/../../2.jpg": b"b", "train/../3.jpg": b"c"}
    )
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("train/cat/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret"
        archive.addfile(link)
    source = recognise(path)
    assert bytes_of(source, "train") == {"train/cat/1.jpg": (0, b"a")}
    assert source.ignored == 3


def test_an_archive_that_is_cut_off_or_damaged_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"train/cat/{number}.jpg": b"a" * 600 for number in range(3)})
    whole = path.read_bytes()
    for end in (0, 100, 512, 1000, 1536, 1700, 3 * 1536):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"damaged or cut off|no tar archive"):
            recognise(path)
    path.write_bytes(whole[:1536] + b"x" * 512 + whole[2048:])  # a header overwritten
    with pytest.raises(UserError, match="damaged or cut off at byte 1536"):
        recognise(path)


def test_a_mistake_is_answered_with_what_to_do(official: Path, tmp_path: Path) -> None:
    def refused(path: Path, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            recognise(path)

    refused(tmp_path / "nothing", "there is no ImageNet at .*imagenet=PATH")
    (official / "train").mkdir()
    refused(official, "holds both .* and train/")
    (official / "train").rmdir()
    (official / DEVKIT).unlink()
    refused(official, f"lacks {DEVKIT}")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "holds neither .* but nothing")
    (empty / "train").mkdir()
    refused(empty, "holds no picture under train/<class>/")
    refused(
        tar(tmp_path / "a.tar.xz", {"train/cat/1.jpg": b""}, "w:xz"),
        "compressed with xz.*decompress it first",
    )
    refused(tar(tmp_path / "b.tar", {"train/a/1.jpg": b"", "val/b/1.jpg": b""}), "val/b but no train/b")
