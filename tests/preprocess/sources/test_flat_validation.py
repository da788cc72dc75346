"""A flat val/ with a list of its classes: which lists are understood, and which are refused."""

from pathlib import Path

import pytest

from preprocess.errors import UserError
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import images_of, unpacked

FILES = {
    **{f"train/{label}/1.jpg": b"a" for label in ("n10", "n20", "n30")},
    **{f"val/ILSVRC2012_val_0000000{number}.JPEG": b"%d" % number for number in (1, 2, 3)},
}
NAME = "ILSVRC2012_val_0000000{}.JPEG"


def listed(*labels: object, name: str = NAME) -> bytes:
    return "".join(f"{name.format(n)} {label}\n" for n, label in enumerate(labels, start=1)).encode()


@pytest.mark.parametrize("place", ["val.txt", "val/val.txt", "caffe_ilsvrc12/val.txt"])
@pytest.mark.parametrize(
    "text",
    [
        listed(2, 0, 1),
        listed(2, 0, 1).replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + listed(2, 0, 1),
        listed(2, 0, 1, name=f"val/{NAME}"),
        listed("n30", "n10", "n20") + b"\n",
        listed(2, 0, 1, 0),  # one that is not there
    ],
    ids=["numbers", "CRLF", "byte order mark", "with folder", "names", "longer"],
)
def test_caffes_list_is_understood(text: bytes, place: str, tmp_path: Path) -> None:
    source = recognise(unpacked(tmp_path, FILES | {place: text}))
    assert images_of(source, "val") == [("n10", b"2"), ("n20", b"3"), ("n30", b"1")]
    assert source.notes == (f"the classes of val/ are those in {place}",)
    assert source.ignored == ()


def test_the_part_may_have_another_name(tmp_path: Path) -> None:
    files = {name.replace("val/", "validation/"): data for name, data in FILES.items()}
    source = recognise(unpacked(tmp_path, files | {"val.txt": listed(2, 0, 1)}))
    assert images_of(source, "val") == [("n10", b"2"), ("n20", b"3"), ("n30", b"1")]
    assert source.notes == ("the classes of validation/ are those in val.txt",)


def test_numbers_are_ranks_of_classes_that_are_numbers_in_their_order(tmp_path: Path) -> None:
    files = {f"train/{label}/1.jpg": b"a" for label in range(11)}
    files |= {f"val/{label}.jpg": b"%d" % label for label in range(11)}
    text = "".join(f"{label}.jpg {label}\n" for label in range(11)).encode()
    source = recognise(unpacked(tmp_path, files | {"val.txt": text}))
    assert source.val["label"].tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]  # by name
    assert {int(data) for _, data in images_of(source, "val")} == set(range(11))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"val.txt": listed(3, 1, 2)}, r"must name the 3 classes of train/, or number them from 0 to 2"),
        ({"val.txt": listed(0, 1, 1)}, "number them from 0 to 2 in sorted order: get the list"),
        ({"val.txt": listed(0, 1, "n30")}, "must name the 3 classes"),
        ({"val.txt": listed("n10", "n20", "n40")}, "must name the 3 classes"),
        (
            {"val.txt": listed(0, 1, 2) + listed(1)},
            r"val\.txt has the line .*: it must have lines of an image's",
        ),
        ({"val.txt": b"1.JPEG\n"}, r"val\.txt has the line '1\.JPEG'"),
        ({"val.txt": b""}, "must name the 3 classes"),
        ({"val.txt": listed("n10", "n20")}, r"00000003\.JPEG has no line in val\.txt: put there what"),
        (
            {"LOC_val_solution.csv": b"ImageId,PredictionString\nILSVRC2012_val_00000001,n40 1 2 3 4\n"},
            r"00000001\.JPEG is of class n40 in LOC_val_solution\.csv, but there is no train/n40",
        ),
        (
            {"val.txt": listed(0, 1, 2), "LOC_val_solution.csv": b""},
            r"holds val\.txt and LOC_val_solution\.csv, which are lists for val/: leave only one",
        ),
        (
            {"ILSVRC2012_validation_ground_truth.txt": b"1\n2\n3\n"},
            r"has the numbers of ILSVRC-2012 and not the classes .*: put ILSVRC2012_devkit_t12\.tar\.gz at",
        ),
        ({}, r"in no class folder: .*LOC_val_solution\.csv or val\.txt"),
        (
            {"val.txt": listed(0, 1, 2), "valid/n10/1.jpg": b""},
            r"holds val/ILSVRC\S*, which is in no class folder",
        ),
    ],
)
def test_a_list_that_is_ambiguous_or_does_not_fit_is_refused(
    more: dict[str, bytes], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        recognise(unpacked(tmp_path, FILES | more))


def test_a_list_next_to_kaggles_tree_and_train_is_two_layouts(tmp_path: Path) -> None:
    files = FILES | {"LOC_val_solution.csv": b"", "ILSVRC/Data/CLS-LOC/train/n10/1.JPEG": b""}
    with pytest.raises(UserError, match=r"holds both Kaggle's tree .* and class folders"):
        recognise(unpacked(tmp_path, files))
