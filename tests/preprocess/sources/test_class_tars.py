"""One tar a class: what is refused or left aside next to the tars."""

from pathlib import Path

import pytest

from preprocess.errors import UserError
from preprocess.sources.recognise import recognise
from preprocess.sources.stamps import changed_place
from tests.preprocess.helpers import images_of, stage, tar, unpacked

ONE, TWO = "n00000010", "n00000020"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train/ with two tars."""
    (tmp_path / "set/train").mkdir(parents=True)
    for wnid in (TWO, ONE):
        tar(
            tmp_path / f"set/train/{wnid}.tar",
            {f"{wnid}_1.JPEG": wnid.encode(), "._1.JPEG": b"", "a.txt": b""},
        )
    return tmp_path / "set"


def test_images_of_tars_are_taken_and_other_members_listed(root: Path) -> None:
    source = recognise(root)
    assert source.archives == (f"train/{ONE}.tar", f"train/{TWO}.tar")
    assert images_of(source, "train") == [(ONE, ONE.encode()), (TWO, TWO.encode())]
    assert source.ignored == tuple(f"{wnid}/a.txt (not named as an image)" for wnid in (ONE, TWO))
    assert source.hidden == 2


def test_what_lies_next_to_the_tars_is_listed(root: Path) -> None:
    unpacked(root, {"README": b"", "test/1.jpg": b"", "train/1.jpg": b"", "train/a": b"", "train/.b": b""})
    source = recognise(root)
    assert source.ignored[:4] == (
        "README (not the tar of a class)",
        "test (not the tar of a class)",
        "train/1.jpg (not the tar of a class)",
        "train/a (not named as an image)",
    )
    assert source.hidden == 3
    unpacked(root, {f"val/{ONE}/1.jpg": b"a"})
    assert recognise(root).ignored[:2] == (
        "README (not named as an image)",
        "test/ (a test part is not used)",
    )


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({f"{ONE}.tar": b""}, f"holds both {ONE}.tar and train/{ONE}.tar: leave only one"),
        ({f"train/{ONE}/1.JPEG": b""}, f"holds both train/{ONE}.tar and the folder train/{ONE}/: unpack all"),
        ({"val/n00000030/1.JPEG": b""}, "has class n00000030, which has no tar: both parts need the same"),
        ({"val/1.JPEG": b""}, r"holds val/1\.JPEG, which is in no class folder"),
        ({"ILSVRC2012_img_val.tar": b""}, r"lacks ILSVRC2012_devkit_t12\.tar\.gz, which names its classes"),
        (
            {"ILSVRC2012_img_val.tar": b"", f"val/{ONE}/1.JPEG": b""},
            r"holds both ILSVRC2012_img_val\.tar and val/: leave only one",
        ),
        ({"train/n00000030.tar": bytes(1024)}, r"n00000030\.tar holds no image: get it again, or remove it"),
        ({"train/n00000030.tar": b"x" * 2000}, r"n00000030\.tar is no tar archive"),
    ],
)
def test_parts_that_disagree_are_refused(more: dict[str, bytes], sentence: str, root: Path) -> None:
    unpacked(root, more)
    with pytest.raises(UserError, match=sentence):
        recognise(root)


def test_a_tar_of_another_name_is_no_class(root: Path) -> None:
    for wnid in (ONE, TWO):
        (root / f"train/{wnid}.tar").rename(root / f"train/{wnid[:5]}.tar")
    with pytest.raises(UserError, match=r"holds no image under train/<class>/, but train/n0000\.tar"):
        recognise(root)


def test_a_change_of_a_tar_and_of_a_validation_folder_is_told(root: Path, tmp_path: Path) -> None:
    unpacked(root, {f"val/{ONE}/{number}.jpg": b"a" for number in range(2)})
    store = tmp_path / "a.zarr"
    assert stage("index", "--imagenet", root, "--store", store).returncode == 0
    assert changed_place(store) == ""
    (root / f"val/{ONE}/new.jpg").touch()
    assert changed_place(store) == str(root / "val" / ONE)
