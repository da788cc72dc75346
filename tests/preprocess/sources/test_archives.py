"""Archives that are recognised by what they hold."""

import shlex
import subprocess
from pathlib import Path

import pytest

from preprocess.errors import UserError
from preprocess.sources import cache, trees
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import tar, unpacked, zipped

IMAGES = "ILSVRC/Data/CLS-LOC"
KAGGLE = {
    f"{IMAGES}/train/n10/n10_1.JPEG": b"a",
    f"{IMAGES}/val/ILSVRC2012_val_00000001.JPEG": b"b",
    f"{IMAGES}/test/ILSVRC2012_test_00000001.JPEG": b"c",
    "ILSVRC/ImageSets/CLS-LOC/val.txt": b"",
    "LOC_val_solution.csv": b"ImageId,PredictionString\nILSVRC2012_val_00000001,n10 1 2 3 4\n",
    "LOC_synset_mapping.txt": b"n10 one\n",
    "LOC_sample_submission.csv": b"",
}
PATCHED = "imagenet_object_localization_patched2019.tar.gz"


@pytest.mark.parametrize("above", ["", "./", "some/folder/"])
def test_kaggles_tree_is_found_at_any_depth(above: str, tmp_path: Path) -> None:
    files = {above + name: data for name, data in KAGGLE.items()}
    for archive in (zipped(tmp_path / "a.zip", files), tar(tmp_path / "a.tar", files)):
        source = recognise(archive)
        assert source.kind == f"Kaggle's tree in a {archive.suffix[1:]}"
        assert (source.classes, source.class_names) == (("n10",), ("one",))
        assert (len(source.train), len(source.val)) == (1, 1)
        assert source.ignored == (f"{above.removeprefix('./')}{IMAGES}/test/ (a test part is not used)",)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("LOC_synset_mapping.txt", None, r"a\.zip looks like Kaggle's tree, .* but lacks LOC_synset_mapping"),
        (
            "LOC_synset_mapping.txt",
            b"n20 two\n",
            "train/n10 is a class that .*a.zip/LOC_synset_mapping.txt does",
        ),
        ("LOC_val_solution.csv", b"a,b\n", r"a\.zip/LOC_val_solution\.csv lacks the columns"),
        ("LOC_val_solution.csv", b"\xff", r"a\.zip/LOC_val_solution\.csv is not in UTF-8"),
        (f"{IMAGES}/val/ILSVRC2012_val_00000001.JPEG", None, f"lacks {IMAGES}/val: unpack"),
        (
            "val/val_annotations.txt",
            b"",
            r"holds both LOC_val_solution\.csv and val/val_annotations\.txt: make",
        ),
    ],
)
def test_an_incomplete_or_ambiguous_archive_is_refused(
    name: str, data: bytes | None, sentence: str, tmp_path: Path
) -> None:
    files = {other: content for other, content in KAGGLE.items() if other != name}
    with pytest.raises(UserError, match=sentence):
        recognise(zipped(tmp_path / "a.zip", files | ({} if data is None else {name: data})))


def test_a_table_that_is_damaged_or_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "a.zip", KAGGLE, method=0)
    archive.write_bytes(archive.read_bytes().replace(b"n10 one", b"n10 two"))
    with pytest.raises(
        UserError, match=r"LOC_synset_mapping\.txt is damaged: its CRC-32 .*: get the archive"
    ):
        recognise(archive)
    monkeypatch.setattr(trees, "LONGEST_TABLE", 7)
    with pytest.raises(UserError, match=r"LOC_synset_mapping\.txt has more than 7 bytes"):
        recognise(unpacked(tmp_path / "set", KAGGLE))


def test_images_that_are_packed_in_kaggles_zip_are_refused_with_the_command_that_unpacks_them(
    tmp_path: Path,
) -> None:
    tables = {name: data for name, data in KAGGLE.items() if name.startswith("LOC")}
    archive = zipped(tmp_path / "a zip.zip", tables | {PATCHED: b"packed"})
    with pytest.raises(UserError, match="holds the images packed again: unpack them") as caught:
        recognise(archive)
    command = shlex.split(str(caught.value).split("`")[1])
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = {path.name for path in tmp_path.iterdir()} - {archive.name}
    assert found == {PATCHED, "LOC_val_solution.csv", "LOC_synset_mapping.txt"}


def test_the_list_of_a_zip_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / "a.zip", KAGGLE)
    first = recognise(archive, tmp_path / "cache")
    monkeypatch.setattr(cache.progress, "counter", None)  # the second time nothing is listed
    assert recognise(archive, tmp_path / "cache").train.tolist() == first.train.tolist()


def test_a_zip_of_which_nothing_can_be_read_is_refused_with_the_reasons(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {f"train/cat/{n}.jpg": b"a" * 99 for n in range(2)}, method=12)
    sentence = (
        r"no image in train/cat/: .*; they hold train/cat/0\.jpg \(compressed with bzip2, not with deflate\)"
    )
    with pytest.raises(UserError, match=sentence):
        recognise(archive)
    archive = zipped(tmp_path / "b.zip", {f"../{n}.jpg": b"a" for n in range(4)})
    with pytest.raises(
        UserError, match=r"train/<class>/, but \.\./0\.jpg \(a name that climbs out\), .*, \.\.\.:"
    ):
        recognise(archive)


def test_an_archive_in_an_unknown_folder_is_named(tmp_path: Path) -> None:
    zipped(tmp_path / "photos.zip", {"cat/1.jpg": b"a"})
    with pytest.raises(
        UserError, match=rf"to read photos\.zip, name the file .*imagenet={tmp_path}/photos\.zip"
    ):
        recognise(tmp_path)
