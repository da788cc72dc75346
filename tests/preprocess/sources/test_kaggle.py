"""Kaggle's tree: its tables, also saved by a spreadsheet, and what is refused or left aside in it."""

import gzip
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.containers.fetch import open_container
from preprocess.errors import UserError
from preprocess.sources.kaggle import PATCHED
from preprocess.sources.official import TRAIN_TAR
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import tar
from tests.preprocess.sources.test_sources import bytes_of


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    root = tmp_path / "kaggle"
    files = {
        "ILSVRC/Data/CLS-LOC/train/n20/n20_1.JPEG": b"a",
        "ILSVRC/Data/CLS-LOC/train/n10/n10_5.JPEG": b"bb",
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG": b"ccc",
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG": b"dddd",
        # the solution is in no order, and goes on with boxes
        "LOC_val_solution.csv": b"ImageId,PredictionString\n"
        b"ILSVRC2012_val_00000002,n10 85 1 499 272 \nILSVRC2012_val_00000001,n20 1 2 3 4 n20 5 6 7 8 \n",
        "LOC_synset_mapping.txt": b"n20 two, deux\nn10 one\n",
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_kaggles_tree_takes_validation_classes_from_the_solution(kaggle: Path) -> None:
    source = recognise(kaggle)
    images = "ILSVRC/Data/CLS-LOC"
    assert (source.kind, source.classes, source.class_names) == (
        "Kaggle's tree",
        ("n10", "n20"),
        ("one", "two, deux"),
    )
    assert bytes_of(source, "train") == {
        f"{images}/train/n10/n10_5.JPEG": (0, b"bb"),
        f"{images}/train/n20/n20_1.JPEG": (1, b"a"),
    }
    assert bytes_of(source, "val") == {
        f"{images}/val/ILSVRC2012_val_00000001.JPEG": (1, b"ccc"),
        f"{images}/val/ILSVRC2012_val_00000002.JPEG": (0, b"dddd"),
    }


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).rename(root.parent / "away")


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (remove("LOC_val_solution.csv"), r"with ILSVRC.*train, .*txt, but lacks LOC_val_solution\.csv"),
        (remove("ILSVRC/Data/CLS-LOC/val"), r"but lacks ILSVRC/Data/CLS-LOC/val: unpack"),
        (remove("ILSVRC"), r"but lacks ILSVRC/Data/CLS-LOC/train, ILSVRC/Data/CLS-LOC/val"),
        (write("LOC_val_solution.csv", "a,b\n1,2\n"), "lacks the columns ImageId and PredictionString"),
        (write("LOC_val_solution.csv", "ImageId,PredictionString\nx\n"), "has a line without a class"),
        (write("LOC_synset_mapping.txt", "n10 one\n"), r"train/n20 is a class that .* does not name"),
        (write("LOC_synset_mapping.txt", "<html>"), "does not hold lines of a wnid and a name"),
        (
            write("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG", "e"),
            r"00000003\.JPEG has no line in LOC_val_solution\.csv, which must name it",
        ),
        (lambda root: (root / "train").mkdir(), "holds both Kaggle's tree .* and class folders"),
        (lambda root: (root / TRAIN_TAR).touch(), "holds both the official tars .* and Kaggle's tree"),
    ],
)
def test_an_incomplete_or_ambiguous_kaggle_tree_is_refused(
    spoil: Callable[[Path], object], sentence: str, kaggle: Path
) -> None:
    spoil(kaggle)
    with pytest.raises(UserError, match=sentence):
        recognise(kaggle)


@pytest.mark.parametrize(
    "solution",
    [
        b"\xef\xbb\xbfImageId,PredictionString\n{1},n20 1 2 3 4\n{2},n10 1 2\n",
        b"ImageId,PredictionString\r\n{1},n20 1 2 3 4\r\n{2},n10 1 2\r\n",
        b"\xef\xbb\xbfImageId;PredictionString\r\n{1};n20 1 2 3 4\r\n{2};n10\r\n",
        b'"ImageId","PredictionString"\n"{1}","n20 1 2 3 4"\n"{2}","n10 1 2"\n',
        b'ImageId,PredictionString,\n{1},n20 1 2 3 4,\n{2},"n10 1 2",\n',
    ],
    ids=["byte order mark", "CRLF", "semicolons", "quotes", "an empty column"],
)
def test_the_solution_may_have_been_saved_by_a_spreadsheet(solution: bytes, kaggle: Path) -> None:
    for number in (b"1", b"2"):
        solution = solution.replace(b"{%b}" % number, b"ILSVRC2012_val_0000000" + number)
    (kaggle / "LOC_val_solution.csv").write_bytes(solution)
    assert recognise(kaggle).val["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "mapping",
    [
        b"\xef\xbb\xbfn20 two, deux\nn10 one\n",
        b"n20 two, deux\r\nn10 one\r\n",
        b'"n20 two, deux"\r\nn10 one\r\n',
        b"n20 two, deux\r\nn10 one,\r\n",
        b'n20,"two, deux"\nn10,one\n',
        b"n20;two, deux\nn10;one;\n",
        b"n20\ttwo, deux\nn10\tone\n\n",
    ],
    ids=["byte order mark", "CRLF", "quotes", "filled up", "commas", "semicolons", "tabs"],
)
def test_the_mapping_may_have_been_saved_by_a_spreadsheet(mapping: bytes, kaggle: Path) -> None:
    (kaggle / "LOC_synset_mapping.txt").write_bytes(mapping)
    assert recognise(kaggle).class_names == ("one", "two, deux")


@pytest.mark.parametrize("table", ["LOC_val_solution.csv", "LOC_synset_mapping.txt"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_that_is_not_in_utf8_is_refused(table: str, encoding: str, kaggle: Path) -> None:
    text = (kaggle / table).read_text() + "n30 caf\u00e9\n"
    (kaggle / table).write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=f"{table} is not in UTF-8: save it as CSV in UTF-8, or get it again"):
        recognise(kaggle)


def test_kaggles_validation_images_may_be_sorted_into_class_folders(kaggle: Path) -> None:
    val = kaggle / "ILSVRC/Data/CLS-LOC/val"
    for number, wnid in ((1, "n20"), (2, "n10")):
        (val / wnid).mkdir()
        (val / f"ILSVRC2012_val_0000000{number}.JPEG").rename(
            val / wnid / f"ILSVRC2012_val_0000000{number}.JPEG"
        )
    assert {data: label for label, data in bytes_of(recognise(kaggle), "val").values()} == {
        b"ccc": 1,
        b"dddd": 0,
    }
    (val / "n10/ILSVRC2012_val_00000002.JPEG").rename(val / "n20/ILSVRC2012_val_00000002.JPEG")
    with pytest.raises(
        UserError, match=r"n20/ILSVRC2012_val_00000002\.JPEG has the class n10 in .*: move it"
    ):
        recognise(kaggle)


@pytest.mark.parametrize("folder", ["train", "train/n10", "train/n10/deep", "val"])
def test_what_is_hidden_in_kaggles_tree_is_left_aside_and_what_is_deeper_is_taken(
    folder: str, kaggle: Path
) -> None:
    before = recognise(kaggle)
    place = kaggle / "ILSVRC/Data/CLS-LOC" / folder
    place.mkdir(exist_ok=True)
    (place / "._n10_5.JPEG").touch()
    source = recognise(kaggle)
    assert (source.train.tolist(), source.val.tolist()) == (before.train.tolist(), before.val.tolist())
    assert (source.ignored, source.hidden) == ((), 1)
    if folder == "train/n10/deep":
        (place / "1.JPEG").touch()
        (kaggle / "ILSVRC/Data/CLS-LOC/test").mkdir()
        source = recognise(kaggle)
        assert source.ignored == ("ILSVRC/Data/CLS-LOC/test/ (a test part is not used)",)
        assert (0, b"") in bytes_of(source, "train").values()


def refuse_listing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let a folder look as if this user had no right to list it; root always has."""
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_listed_is_named(kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = kaggle / "ILSVRC/Data/CLS-LOC"
    refuse_listing(monkeypatch, images / "train/n10")
    sentence = r"train/n10/? cannot be opened or listed \(Permission denied\): make it readable"
    with pytest.raises(UserError, match=sentence):
        recognise(kaggle)
    (images / "val").rename(kaggle / "away")
    with pytest.raises(UserError, match=sentence):
        recognise(images)


def test_a_table_that_cannot_be_opened_is_named(kaggle: Path) -> None:
    (kaggle / "LOC_val_solution.csv").unlink()
    (kaggle / "LOC_val_solution.csv").mkdir()
    with pytest.raises(
        UserError, match=r"LOC_val_solution\.csv cannot be opened or listed \(Is a directory\)"
    ):
        recognise(kaggle)


def test_validation_images_without_class_folders_are_an_error(kaggle: Path) -> None:
    with pytest.raises(UserError, match=r"val/ILSVRC2012_val_.* in no class folder.*LOC_val_solution\.csv"):
        recognise(kaggle / "ILSVRC/Data/CLS-LOC")
    archive = tar(kaggle / "a.tar", {"x/train/a/1.jpg": b"a", "x/val/2.jpg": b"b"})
    with pytest.raises(UserError, match=r"x/val/2\.jpg, which is in no class folder"):
        recognise(archive)


def test_kaggles_images_are_files_of_their_own_and_others_are_ignored(kaggle: Path) -> None:
    images = kaggle / "ILSVRC/Data/CLS-LOC"
    (images / "train/n10/notes.txt").touch()
    (images / "val/notes.txt").touch()
    source = recognise(kaggle)
    assert set(source.train["file"]) == set(source.val["file"]) == {-1}
    assert source.ignored == tuple(
        f"ILSVRC/Data/CLS-LOC/{name}/notes.txt (not named as an image)" for name in ("train/n10", "val")
    )


@pytest.mark.parametrize(
    ("part", "sentence"),
    [("train", "kaggle has no image in {}/train/n10/"), ("val", "{}/val holds no image")],
)
def test_a_part_of_kaggles_tree_without_images_is_refused(part: str, sentence: str, kaggle: Path) -> None:
    for path in (kaggle / "ILSVRC/Data/CLS-LOC" / part).rglob("*.JPEG"):
        path.unlink()
    with pytest.raises(UserError, match=sentence.format("ILSVRC/Data/CLS-LOC")):
        recognise(kaggle)


@pytest.fixture(params=["", "./"])
def packed(request: pytest.FixtureRequest, kaggle: Path) -> Path:
    """The folder with the tar that is in Kaggle's zip, and the tables."""
    with tarfile.open(kaggle / PATCHED, "w:gz") as archive:
        archive.add(kaggle / "ILSVRC", f"{request.param}ILSVRC")
    shutil.rmtree(kaggle / "ILSVRC")
    return kaggle


def test_the_images_may_be_in_the_tar_that_is_in_kaggles_zip(packed: Path, tmp_path: Path) -> None:
    with gzip.open(packed / PATCHED) as file:
        (packed / PATCHED.removesuffix(".gz")).write_bytes(file.read())
    for name in (PATCHED, PATCHED.removesuffix(".gz"), "."):
        source = recognise(packed / name)
        labels = {Path(name.decode()).name: label for name, label in source.val[["name", "label"]].tolist()}
        assert labels == {"ILSVRC2012_val_00000001.JPEG": 1, "ILSVRC2012_val_00000002.JPEG": 0}
        assert source.classes == ("n10", "n20")
        container = open_container(source.root / source.archives[0], None)
        image = source.train[0]
        assert container.request("", image["offset"], image["length"]).read() == b"bb"
        container.close()


@pytest.mark.parametrize("table", ["LOC_val_solution.csv", "LOC_synset_mapping.txt"])
def test_a_table_that_is_missing_next_to_the_tar_is_named(table: str, packed: Path) -> None:
    (packed / table).unlink()
    with pytest.raises(UserError, match=rf"holds {PATCHED} but lacks {table}: unpack them out of Kaggle's"):
        recognise(packed)
