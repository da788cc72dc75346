"""Parquet files as Hugging Face hands out sets of images: parts, labels and classes."""

from pathlib import Path

import pyarrow as pa
import pytest

from preprocess.errors import UserError
from preprocess.sources import parquet as module
from preprocess.sources.recognise import recognise
from preprocess.sources.tables import Source
from tests.preprocess.helpers import stage
from tests.preprocess.parquet_files import IMAGE, parquet

WNIDS = ("n01440764", "n01484850", "n02012849")
NAMES = ("tench, Tinca tinca", "great white shark", "crane")
TRAIN, VAL, TEST = (f"data/{part}-00000-of-00001.parquet" for part in ("train", "validation", "test"))
Rows = list[tuple[bytes | None, str | None, object]]


def labelled(*labels: object, paths: tuple[str | None, ...] = ()) -> Rows:
    """Rows with these labels and paths, `none` for no path."""
    return [(b"", path, label) for path, label in zip(paths or [None] * len(labels), labels, strict=True)]


def wnid_path(label: int, number: int = 1) -> str:
    return f"{WNIDS[label]}_{number}_{WNIDS[label]}.JPEG"


def found(source: Source, part: str = "train") -> list[tuple[str, str]]:
    """The name and the class of each image."""
    rows = getattr(source, part)
    return [(row["name"].decode(), source.classes[row["label"]]) for row in rows]


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        recognise(path)


def test_imagenet_as_hugging_face_hands_it_out_has_wnids_names_and_parts(tmp_path: Path) -> None:
    paths = {
        TRAIN: [wnid_path(2), "n01440764_10026.JPEG", wnid_path(1)],
        VAL: [f"ILSVRC2012_val_00000293_{WNIDS[0]}.JPEG"],
    }
    for name, labels in ((TRAIN, (2, 0, 1)), (VAL, (0,))):
        parquet(tmp_path / name, labelled(*labels, paths=tuple(paths[name])), NAMES)
    parquet(tmp_path / TEST, labelled(-1, paths=("ILSVRC2012_test_00000001.JPEG",)), NAMES)
    (tmp_path / "README.md").touch()
    (tmp_path / ".gitattributes").touch()
    for place in (tmp_path, tmp_path / "data"):
        source = recognise(place)
        assert source.classes == WNIDS
        assert source.class_names == NAMES
        assert source.notes == ()
    source = recognise(tmp_path)
    assert found(source) == [
        (f"{TRAIN}/000000/{paths[TRAIN][0]}", WNIDS[2]),
        (f"{TRAIN}/000001/{paths[TRAIN][1]}", WNIDS[0]),
        (f"{TRAIN}/000002/{paths[TRAIN][2]}", WNIDS[1]),
    ]
    assert found(source, "val") == [(f"{VAL}/000000/{paths[VAL][0]}", WNIDS[0])]
    assert source.ignored == ("README.md (not a Parquet file)", f"{TEST} (a test part is not used)")
    assert source.hidden == 1
    one = recognise(tmp_path / VAL)  # whatever its name is
    assert (one.classes, one.class_names, len(one.val)) == (WNIDS[:1], NAMES[:1], 0)


def test_a_few_classes_keep_their_wnids_and_names(tmp_path: Path) -> None:
    rows = labelled(2, 0, 2, paths=(wnid_path(2), wnid_path(0), wnid_path(2)))
    source = recognise(parquet(tmp_path / "a.parquet", rows, NAMES))
    assert (source.classes, source.class_names) == ((WNIDS[0], WNIDS[2]), (NAMES[0], NAMES[2]))
    assert source.train["label"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("paths", [(), ("a.jpg", "b.jpg", "c.jpg"), (wnid_path(0), "b.jpg", "c.jpg")])
def test_without_a_wnid_for_each_label_classes_have_the_names_in_the_metadata(
    paths: tuple[str, ...], tmp_path: Path
) -> None:
    rows = labelled(2, 0, 1, paths=paths)
    source = recognise(parquet(tmp_path / "a.parquet", rows, ("pig", "cow", "ant", "unused")))
    assert source.classes == ("ant", "cow", "pig", "unused")
    assert source.class_names is None
    assert [name for _, name in found(source)] == ["ant", "pig", "cow"]
    coarse = labelled(1, 1, 0, paths=(wnid_path(0), wnid_path(1), wnid_path(2)))
    assert recognise(parquet(tmp_path / "a.parquet", coarse, ("bird", "fish"))).classes == ("bird", "fish")


def test_names_that_are_no_names_leave_the_numbers_as_classes(tmp_path: Path) -> None:
    source = recognise(parquet(tmp_path / "a.parquet", labelled(2, 0, 1), ("crane", "ape", "crane")))
    assert (source.classes, source.class_names) == (("0", "1", "2"), ("crane", "ape", "crane"))
    source = recognise(parquet(tmp_path / "a.parquet", labelled(10, 9, 200), label=pa.uint8()))
    assert (source.classes, source.class_names) == (("9", "10", "200"), None)
    assert source.train["label"].tolist() == [1, 0, 2]


def test_labels_may_be_texts(tmp_path: Path) -> None:
    def classes(*labels: str) -> tuple[str, ...]:
        return recognise(parquet(tmp_path / "a.parquet", labelled(*labels), label=pa.string())).classes

    assert classes("cow", "ape", "cow", "ö") == ("ape", "cow", "ö")
    assert classes("10", "9", "0") == ("0", "9", "10")
    refused(
        parquet(tmp_path / "a.parquet", labelled("a\nb"), label=pa.string()),
        r"has the label 'a\\nb', which is no name of a class",
    )


def test_labels_that_contradict_the_wnids_are_refused(tmp_path: Path) -> None:
    swapped = labelled(0, 1, paths=(wnid_path(1), wnid_path(0)))
    refused(
        parquet(tmp_path / "a.parquet", swapped, NAMES),
        rf"000000/{wnid_path(1)} has the label 0 and .*{wnid_path(0)} the label 1, but in sorted order.* get",
    )
    refused(
        parquet(tmp_path / "a.parquet", swapped, WNIDS),
        rf"{wnid_path(1)} has the label 0, which is {WNIDS[0]} in the metadata: .* contradict each other",
    )
    one_wrong = labelled(0, 1, 1, 1, paths=(wnid_path(0), wnid_path(1), wnid_path(0), wnid_path(1)))
    refused(
        parquet(tmp_path / "a.parquet", one_wrong, NAMES),
        f"000000/{wnid_path(0)} has the label 0 and .*000002/{wnid_path(0)} the label 1, and both are named",
    )
    source = recognise(parquet(tmp_path / "a.parquet", labelled(1, 0, paths=("x", wnid_path(0))), WNIDS))
    assert (source.classes, source.class_names) == (WNIDS, None)


def test_rows_without_a_label_are_counted_and_labels_that_are_no_class_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", labelled(0, -1, None, 1), NAMES)
    source = recognise(path)
    assert source.train["offset"].tolist() == [0, 3]
    assert source.ignored == ("2 of 4 rows of a.parquet (without a label)",)
    refused(
        parquet(path, labelled(0, 3), NAMES), "has the label 3, which is no class; the metadata name 3 cl"
    )
    refused(parquet(path, labelled(0, -2)), "a.parquet/000001 has the label -2, which is no class: get it")
    refused(parquet(path, labelled(-1, -1)), "holds no image with a label")


def test_there_are_at_most_as_many_labels_as_int16_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CLASSES", 3)
    assert len(recognise(parquet(tmp_path / "a.parquet", labelled(0, 1, 2))).classes) == 3
    refused(parquet(tmp_path / "a.parquet", labelled(0, 1, 2, 3)), "000003 has one label more than 3")
    names = ("a", "b", "c", "d")
    refused(parquet(tmp_path / "a.parquet", labelled(0, 1, 2), names), "name 4 classes, more than 3")


def test_the_part_of_a_file_is_the_first_word_of_its_name(tmp_path: Path) -> None:
    for name in ("Training_1", "valid.0", "testing-0", "trainer-0", "extra"):
        parquet(tmp_path / f"{name}.parquet", labelled(0))
    source = recognise(tmp_path)
    assert (len(source.train), len(source.val)) == (1, 1)
    other = "(named neither train nor validation)"
    assert source.ignored == (
        f"extra.parquet {other}",
        "testing-0.parquet (a test part is not used)",
        f"trainer-0.parquet {other}",
    )
    (tmp_path / "Training_1.parquet").unlink()
    source = recognise(tmp_path)  # without a training part, files of no part are its files
    assert source.archives == ("extra.parquet", "trainer-0.parquet", "valid.0.parquet")
    (tmp_path / "extra.parquet").unlink()
    (tmp_path / "trainer-0.parquet").unlink()
    source = recognise(tmp_path)
    assert (len(source.train), len(source.val)) == (0, 1)


def test_missing_files_of_a_part_are_noted(tmp_path: Path) -> None:
    for number in (0, 3):
        parquet(tmp_path / f"train-{number:05d}-of-00004.parquet", labelled(0))
    assert recognise(tmp_path).notes == ("2 of the 4 files train-* are not there",)


def test_columns_of_other_names_are_found_and_missing_ones_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for columns in (("img", "fine_label"), ("photo", "labels")):
        assert len(recognise(parquet(path, labelled(0, 1), columns=columns)).train) == 2
    only_bytes = pa.struct({"bytes": pa.large_binary()})
    assert found(recognise(parquet(path, labelled(0), image=only_bytes))) == [("a.parquet/000000", "0")]
    refused(
        parquet(path, labelled(0), columns=("image", "quality")),
        r"has no column of labels, .*its columns are image \(struct<.*, quality \(int64\): rename",
    )
    refused(parquet(path, labelled(0), image=pa.list_(IMAGE)), r"has no column of images.* image \(list<")
    refused(parquet(path, labelled(0.5), label=pa.float64()), "has labels of type double: they must be")
    refused(
        parquet(path, [(b"", "a", {"bytes": b"", "path": "b"})], columns=("one", "two"), label=IMAGE),
        "has several columns of images, one, two: name one of them image",
    )


def test_files_with_labels_of_two_kinds_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", labelled(0), NAMES)
    parquet(tmp_path / "train-1.parquet", labelled(0))  # without names: those of the others hold
    assert recognise(tmp_path).classes == tuple(sorted(NAMES))
    for other in (
        parquet(tmp_path / "train-2.parquet", labelled(0), NAMES[::-1]),
        parquet(tmp_path / "train-2.parquet", labelled("crane"), label=pa.string()),
    ):
        refused(tmp_path, rf"train-0\.parquet and {other.name}, whose labels are of other kinds")


def test_parquet_files_next_to_class_folders_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / TRAIN, labelled(0))
    (tmp_path / "train").mkdir()
    refused(
        tmp_path, r"holds both Parquet files \(train-00000-of-00001\.parquet\) and class folders \(train\)"
    )


def test_labels_of_unchanged_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", labelled(0, 1, paths=("ö.jpg", "b.jpg")))
    first = recognise(path, tmp_path / "cache")
    monkeypatch.setattr(module, "rows", rows := lambda _: pytest.fail("read again"))
    rows.__name__ = "rows"
    second = recognise(path, tmp_path / "cache")
    assert found(first) == found(second) == [("a.parquet/000000/ö.jpg", "0"), ("a.parquet/000001/b.jpg", "1")]


def test_the_length_of_shards_that_hold_whole_row_groups_is_told(tmp_path: Path) -> None:
    for name, count in ((TRAIN, 22), (VAL, 9)):
        parquet(tmp_path / "set" / name, labelled(*(number % 3 for number in range(count))), NAMES)
    words = ("--image-size", 224, "--shard-length", 10)
    done = stage("index", "--imagenet", tmp_path / "set", "--store", tmp_path / "a.zarr", *words)
    assert "; 8 images a shard, so that no row group is read twice" in done.stdout
