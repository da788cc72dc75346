"""The three official tars: their sums, what is ignored in them, and what is refused."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from preprocess.errors import UserError
from preprocess.sources import official
from preprocess.sources.devkit import read_devkit
from preprocess.sources.official import DEVKIT, TRAIN_TAR, VAL_TAR
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import tar

FIELDS = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def test_names_and_sums_are_those_that_torchvision_has_too() -> None:
    assert official.MD5 == {
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    }


def inner(path: Path, *names: str) -> bytes:
    return tar(path, dict.fromkeys(names, b"a")).read_bytes()


def test_what_is_no_image_in_the_official_tars_is_ignored_with_a_reason(official_set: Path) -> None:
    spare = official_set / "spare.tar"
    tar(
        official_set / TRAIN_TAR,
        {
            "README": b"a",
            "n10.tar": inner(spare, "notes.txt", "/1.JPEG", "n10_1.JPEG", "._n10_1.JPEG"),
            "._n10.tar": b"no tar",
        },
    )
    images = {f"some/folder/ILSVRC2012_val_0000000{number}.JPEG": b"a" for number in (1, 2, 3, 4)}
    tar(official_set / VAL_TAR, {"../0.JPEG": b"", "some/folder/.5.JPEG": b"", **images})
    source = recognise(official_set)
    assert source.train["name"].tolist() == [b"n10/n10_1.JPEG"]
    assert source.val["name"].tolist() == [name.encode() for name in images]
    assert source.ignored == (
        "README (not the tar of a class)",
        "n10/notes.txt (not named as an image)",
        "n10//1.JPEG (an absolute name)",
        "../0.JPEG (a name that climbs out)",
    )
    assert source.hidden == 3


def test_official_tars_that_do_not_belong_together_are_refused(official_set: Path) -> None:
    spare = official_set / "spare.tar"
    for images, sentence in (
        ({"n10.tar": inner(spare, "1.JPEG"), "n11.tar": inner(spare, "1.JPEG")}, "holds class n11, which"),
        ({"n10.tar": inner(spare, "notes.txt")}, "holds no image: it must be a tar of one tar a class"),
    ):
        whole = (official_set / TRAIN_TAR).read_bytes()
        tar(official_set / TRAIN_TAR, images)
        with pytest.raises(UserError, match=f"{official_set}/{TRAIN_TAR} {sentence}"):
            recognise(official_set)
        (official_set / TRAIN_TAR).write_bytes(whole)
    tar(official_set / VAL_TAR, {"1.JPEG": b"a", "2.JPEG": b"b"})
    with pytest.raises(
        UserError, match=f"{official_set}/{VAL_TAR} holds 2 images and .* the classes of 4: they"
    ):
        recognise(official_set)


def devkit(folder: Path, rows: list[tuple], truth: bytes) -> Path:
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=FIELDS).reshape(-1, 1)})
    return tar(folder / DEVKIT, {"data/meta.mat": meta.getvalue(), f"data/{TRUTH}": truth}, "w:gz")


def test_a_devkit_of_one_class_is_read(tmp_path: Path) -> None:
    found = read_devkit(devkit(tmp_path, [(7, "n10", "one", 0)], b"7\n7\n"))
    assert (found.classes, found.class_names, found.validation.tolist()) == (("n10",), ("one",), [0, 0])
    assert found.validation.dtype == np.int16


def test_a_damaged_devkit_is_refused(tmp_path: Path) -> None:
    path = devkit(tmp_path, [(1, "n10", "one", 0), (2, "n00", "all", 1)], b"1\n2\n")
    with pytest.raises(UserError, match=rf"{TRUTH} names class 2, which data/meta\.mat does not have"):
        read_devkit(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"tar\.gz cannot be read \(.*\): get it again"):
        read_devkit(path)
    path.write_bytes(gzip.compress(b"no tar"))
    with pytest.raises(UserError, match=r"tar\.gz cannot be read \(.*\): get it again"):
        read_devkit(path)
    meta, truth = {"data/meta.mat": b"no matrix"}, {f"data/{TRUTH}": b"1\n"}
    for files, sentence in (
        (meta, f"holds no data/{TRUTH}"),
        (truth, r"holds no data/meta\.mat"),
        (meta | truth, r"data/meta\.mat cannot be read"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_devkit(tar(path, files, "w:gz"))


@pytest.mark.parametrize("form", ["gzip", "tar", "tar under the name of the gzip", "folder"])
def test_the_devkit_may_be_unpacked(form: str, official_set: Path) -> None:
    expected = recognise(official_set)
    packed = official_set / DEVKIT
    if form == "tar":
        (official_set / "ILSVRC2012_devkit_t12.tar").write_bytes(gzip.decompress(packed.read_bytes()))
    elif form == "tar under the name of the gzip":
        packed.write_bytes(gzip.decompress(packed.read_bytes()))
    elif form == "folder":
        with tarfile.open(packed) as archive:
            archive.extractall(official_set, filter="data")
    if form in ("tar", "folder"):
        packed.unlink()
    for path in [official_set, *official_set.glob("*.tar")]:
        source = recognise(path)
        assert (source.classes, source.class_names) == (expected.classes, expected.class_names)
        assert source.val.tolist() == expected.val.tolist()
    if form in ("tar", "folder"):
        with pytest.raises(UserError, match=f"verify_md5 needs {DEVKIT} as it was published"):
            official.check_md5(source)


def test_a_damaged_devkit_that_is_unpacked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/meta.mat").write_bytes(b"no matrix")
    with pytest.raises(UserError, match=f"{tmp_path} holds no data/{TRUTH}"):
        read_devkit(tmp_path)


def val_name(number: int, folder: str = "") -> str:
    return f"{folder}ILSVRC2012_val_{number:08d}.JPEG"


@pytest.mark.parametrize(
    "folders",
    [
        {1: "", 2: "", 3: "", 4: ""},
        dict.fromkeys((1, 2, 3, 4), "./"),
        dict.fromkeys((1, 2, 3, 4), "val/"),
        {1: "n10/", 2: "n20/", 3: "n30/", 4: "n30/"},
        {1: "val/n10/", 2: "val/n20/", 3: "val/n30/", 4: "val/n30/"},
        {1: "d/", 2: "c/", 3: "b/", 4: "a/"},  # sorted by name, the other way round
    ],
    ids=lambda folders: " ".join(folders.values()).strip() or "flat",
)
def test_the_number_in_an_images_name_decides_its_label(folders: dict[int, str], official_set: Path) -> None:
    tar(official_set / VAL_TAR, {val_name(n, folder): bytes([n]) * n for n, folder in folders.items()})
    source = recognise(official_set)
    # the devkit's lines 3, 1, 2, 2 are n10, n20, n30, n30; image n has n bytes
    labels = {int(row["length"]): source.classes[row["label"]] for row in source.val}
    assert labels == {1: "n10", 2: "n20", 3: "n30", 4: "n30"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("4.JPEG", r"holds 4\.JPEG, and the devkit names the classes of .* to _00000004: get"),
        (val_name(0), "holds ILSVRC2012_val_00000000.JPEG, and"),
        (val_name(5), "holds ILSVRC2012_val_00000005.JPEG, and"),
        (val_name(3, "again/"), r"val_00000003\.JPEG and again/.*_00000003\.JPEG, which have one number"),
        (val_name(4, "n10/"), r"holds n10/.*_00000004\.JPEG, and the devkit says .* of class n30"),
    ],
)
def test_validation_images_that_contradict_the_devkit_are_refused(
    wrong: str, sentence: str, official_set: Path
) -> None:
    tar(official_set / VAL_TAR, {val_name(1): b"", val_name(2): b"", val_name(3): b"", wrong: b""})
    with pytest.raises(UserError, match=sentence):
        recognise(official_set)


@pytest.mark.parametrize("name", ["./{}_1.JPEG", "{}/{}_1.JPEG", "./{}/{}_1.JPEG", "a/b/{}_1.JPEG"])
@pytest.mark.parametrize("outer", ["", "./", "train/"])
def test_inner_tars_may_have_folders(name: str, outer: str, official_set: Path) -> None:
    wnids = "n10", "n20", "n30"
    inner_tars = {
        f"{outer}{wnid}.tar": inner(official_set / "spare.tar", name.format(wnid, wnid)) for wnid in wnids
    }
    tar(official_set / TRAIN_TAR, inner_tars)
    source = recognise(official_set)
    assert source.train["label"].tolist() == [0, 1, 2]
    assert (source.ignored, source.hidden) == ((), 0)


def folders_next_to(official_set: Path, *parts: str) -> None:
    for part in parts:
        (official_set / part / "n10").mkdir(parents=True)
        (official_set / part / "n10/1.JPEG").write_bytes(b"a")
    (official_set / "meta.bin").write_bytes(b"x")


@pytest.mark.parametrize("parts", [("train",), ("val",), ("train", "val")], ids="+".join)
def test_the_archives_are_read_where_torchvision_unpacked_them(
    parts: tuple[str, ...], official_set: Path
) -> None:
    expected = recognise(official_set)
    folders_next_to(official_set, *parts)
    source = recognise(official_set)
    assert (source.kind, source.train.tolist(), source.val.tolist()) == (
        expected.kind,
        expected.train.tolist(),
        expected.val.tolist(),
    )
    assert source.notes == (f"the archives are read, and not {' and '.join(f'{part}/' for part in parts)}",)
    assert expected.notes == ()


@pytest.mark.parametrize(
    ("gone", "lacking"),
    [
        ((TRAIN_TAR,), f"{TRAIN_TAR} is missing"),
        ((TRAIN_TAR, VAL_TAR), f"{TRAIN_TAR} and {VAL_TAR} are missing"),
        ((DEVKIT,), f"{DEVKIT} is missing"),
    ],
)
def test_the_folders_are_read_where_an_archive_is_missing(
    gone: tuple[str, ...], lacking: str, official_set: Path
) -> None:
    folders_next_to(official_set, "train", "val")
    for name in gone:
        (official_set / name).unlink()
    source = recognise(official_set)
    assert (source.kind, source.classes) == ("class folders", ("n10",))
    assert source.notes == (f"train/ and val/ are read, because {lacking}",)


@pytest.mark.parametrize("part", ["train", "val"])
def test_one_folder_does_not_replace_a_missing_archive(part: str, official_set: Path) -> None:
    folders_next_to(official_set, part)
    (official_set / TRAIN_TAR).unlink()
    with pytest.raises(UserError, match=f"but lacks {TRAIN_TAR}: put the three files"):
        recognise(official_set)
