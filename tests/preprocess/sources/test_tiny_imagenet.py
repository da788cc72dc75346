"""Tiny ImageNet: what is refused or left aside in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.errors import UserError
from preprocess.sources.recognise import recognise
from preprocess.sources.tables import Source
from tests.preprocess.helpers import images_of, unpacked, zipped

FILES = {
    "train/n20/images/n20_0.JPEG": b"a",
    "train/n20/n20_boxes.txt": b"n20_0.JPEG\t0\t10\t63\t58\n",
    "train/n10/images/n10_0.JPEG": b"b",
    "val/images/val_0.JPEG": b"c",
    "val/images/val_1.JPEG": b"d",
    "val/val_annotations.txt": b"val_1.JPEG\tn10\t0\t32\t44\t62\nval_0.JPEG\tn20\t0\t0\t1\t1\n",
    "test/images/test_0.JPEG": b"e",
    "wnids.txt": b"n20\nn10\n",
    "words.txt": b"n10\tone, un\nn99\tother\nn20\ttwo\n",
}
Read = Callable[[dict[str, bytes]], Source]


@pytest.fixture(params=["disk", "zip"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """Makes a source of these files, and recognises it."""

    def made(files: dict[str, bytes]) -> Source:
        if request.param == "disk":
            return recognise(unpacked(tmp_path / "set", files))
        above = {f"tiny-imagenet-200/{name}": data for name, data in files.items()}
        return recognise(zipped(tmp_path / "set.zip", above))

    return made


def test_classes_of_validation_images_are_those_in_the_annotations(read: Read) -> None:
    source = read(FILES)
    assert (source.classes, source.class_names) == (("n10", "n20"), ("one, un", "two"))
    assert images_of(source, "train") == [("n10", b"b"), ("n20", b"a")]
    assert images_of(source, "val") == [("n10", b"d"), ("n20", b"c")]
    assert [entry.removeprefix("tiny-imagenet-200/") for entry in source.ignored] == [
        "train/n20/n20_boxes.txt (not named as an image)",
        "test/ (a test part is not used)",
    ]


def test_the_lists_of_classes_may_be_missing(read: Read) -> None:
    source = read({name: data for name, data in FILES.items() if name not in ("wnids.txt", "words.txt")})
    assert (source.classes, source.class_names) == (("n10", "n20"), None)


def test_a_class_without_a_name_is_called_by_its_wnid(read: Read) -> None:
    assert read(FILES | {"words.txt": b"n20\ttwo\n"}).class_names == ("n10", "two")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"val/images/val_2.JPEG": b"x"},
            r"val_2\.JPEG has no line in val/val_annotations\.txt: get the set",
        ),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn30\n"}, r"val_0\.JPEG has the class n30 in val/val_ann"),
        ({"val/val_annotations.txt": b"val_0.JPEG\n"}, "has the line 'val_0.JPEG', which names no class"),
        (
            {"val/val_annotations.txt": b"val_0.JPEG\tn10\nval_0.JPEG\tn20\n"},
            r"has the line 'val_0.JPEG\\tn20', which names no class",
        ),
        ({"val/val_annotations.txt": b"\xff"}, r"val_annotations\.txt is not in UTF-8"),
        ({"wnids.txt": b"n10\n"}, r"has train/n20, which wnids\.txt does not name"),
        ({"val/n10/val_0.JPEG": b"x"}, r"n10/val_0\.JPEG has the class n20 in"),
        ({"train/n30/notes.txt": b""}, r"has no image in .*train/n30/"),
    ],
)
def test_parts_that_disagree_are_refused(more: dict[str, bytes], sentence: str, read: Read) -> None:
    with pytest.raises(UserError, match=sentence):
        read(FILES | more)


def test_a_validation_part_without_images_is_refused(read: Read) -> None:
    with pytest.raises(UserError, match=r"holds no image in .*val/: get the set again"):
        read({name: data for name, data in FILES.items() if not name.startswith("val/images")})
