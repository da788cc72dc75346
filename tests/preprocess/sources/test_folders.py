"""What is taken from class folders and what is left aside: the same on disk, in a tar and in a zip."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.errors import UserError
from preprocess.sources.recognise import recognise
from preprocess.sources.tables import Source
from tests.preprocess.helpers import tar, zipped

CAT = {"train/cat/1.jpg": b"a"}
Read = Callable[[dict[str, bytes]], Source]


@pytest.fixture(params=["disk", "tar", "tar of .", "tar of a folder", "zip"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """Makes a source of these files, and recognises it."""

    def made(files: dict[str, bytes]) -> Source:
        if request.param == "zip":
            return recognise(zipped(tmp_path / "a.zip", files))
        if request.param != "disk":
            prefix = {"tar of .": "./", "tar of a folder": "train-2/imagenet/"}.get(request.param, "")
            return recognise(tar(tmp_path / "a.tar", {prefix + name: data for name, data in files.items()}))
        for name, data in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return recognise(tmp_path)

    return made


def names(source: Source, part: str) -> list[str]:
    """The last three parts of the images' names."""
    return ["/".join(os.fsdecode(name).split("/")[-3:]) for name in getattr(source, part)["name"]]


@pytest.mark.parametrize(
    "hidden",
    [
        *("train/.ipynb_checkpoints/1-checkpoint.jpg", "train/cat/.ipynb_checkpoints/1-checkpoint.jpg"),
        *("train/cat/._1.jpg", "train/cat/.DS_Store", ".DS_Store", "train/.DS_Store", "train/._cat"),
        *("train/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "train/cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg"),
        *("__MACOSX/train/cat/._1.jpg", "train/cat/Thumbs.db", "train/cat/desktop.ini", "train/Desktop.ini"),
        *("train/__MACOSX/1.jpg", ".git/train/cat/1.jpg", "train/$RECYCLE.BIN/1.jpg", ".val/cat/1.jpg"),
    ],
)
def test_what_is_hidden_is_counted_and_not_taken(hidden: str, read: Read) -> None:
    source = read(CAT | {hidden: b"x"})
    assert (source.classes, names(source, "train"), source.ignored) == (("cat",), ["train/cat/1.jpg"], ())
    assert (len(source.val), source.hidden) == (0, 1)


def test_a_hidden_folder_counts_once(read: Read) -> None:
    assert read(CAT | {f"train/.cache/{number}.jpg": b"" for number in range(5)}).hidden == 1


def test_images_below_a_class_folder_are_of_that_class(read: Read) -> None:
    deep = [
        "train/cat/2021/1.jpg",
        "train/cat/train/dog/2.jpg",
        "train/cat/val/x/3.jpg",
        "train/dog/a/b/4.jpg",
    ]
    source = read(CAT | dict.fromkeys(deep, b"x"))
    found = {
        os.fsdecode(name).removeprefix("./").removeprefix("train-2/imagenet/"): label
        for name, label in source.train[["name", "label"]].tolist()
    }
    assert source.classes == ("cat", "dog")
    assert found == {**dict.fromkeys([*CAT, *deep[:3]], 0), deep[3]: 1}
    assert source.ignored == ()


def test_a_class_may_have_only_deeper_images(read: Read) -> None:
    source = read({"train/dog/images/1.jpg": b"a", "val/dog/2.jpg": b"b"})
    assert (source.classes, len(source.train), len(source.val)) == (("dog",), 1, 1)


@pytest.mark.parametrize("other", ["1.avif", "notes.txt", "._1.jpg", ".cache/1.jpg"])
def test_a_class_without_an_image_is_refused(other: str, read: Read) -> None:
    with pytest.raises(UserError, match=r"no image in .*train/dog/: put images there, or remove"):
        read(CAT | {f"train/dog/{other}": b"a"})


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training"])
@pytest.mark.parametrize("val", ["val", "validation", "valid", "Val", "VALIDATION"])
def test_the_usual_names_of_the_parts_are_understood(train: str, val: str, read: Read) -> None:
    source = read({f"{train}/cat/1.jpg": b"a", f"{val}/cat/2.jpg": b"b"})
    assert (names(source, "train"), names(source, "val")) == ([f"{train}/cat/1.jpg"], [f"{val}/cat/2.jpg"])
    assert source.ignored == ()


@pytest.mark.parametrize("pair", [("train", "Train"), ("training", "train"), ("val", "valid")])
def test_two_folders_for_one_part_are_refused(pair: tuple[str, str], read: Read) -> None:
    one, other = sorted(pair)
    with pytest.raises(UserError, match=f"has .*{one}/ and .*{other}/, which are both a name of"):
        read(CAT | {f"{part}/cat/{part}.jpg": b"a" for part in pair})


def test_classes_may_be_called_train_and_val(read: Read) -> None:
    files = {f"{part}/{label}/1.jpg": b"a" for part in ("train", "val") for label in ("train", "val", "cat")}
    source = read(files)
    assert source.classes == ("cat", "train", "val")
    assert names(source, "train") + names(source, "val") == sorted(files)


@pytest.mark.parametrize("name", ["valid", "Validation", "VAL"])
def test_a_validation_part_of_another_name_is_noted(name: str, read: Read) -> None:
    noted = read(CAT | {f"{name}/cat/2.jpg": b"b"}).notes
    assert [note.removeprefix("train-2/imagenet/") for note in noted] == [f"{name}/ is the validation part"]


@pytest.mark.parametrize("train", ["train", "Training"])
def test_nothing_is_noted_of_a_part_called_val(train: str, read: Read) -> None:
    assert read({f"{train}/cat/1.jpg": b"a", "val/cat/2.jpg": b"b"}).notes == ()


def test_a_test_part_with_the_classes_of_train_is_taken_for_validation(read: Read) -> None:
    source = read(CAT | {f"Test/cat/{n}/1.jpg": b"b" for n in range(3)})
    assert (names(source, "train"), len(source.val), source.ignored) == (["train/cat/1.jpg"], 3, ())
    assert [note.removeprefix("train-2/imagenet/") for note in source.notes] == [
        "Test/ is the validation part"
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"test/cat/1.jpg": b"b", "val/cat/2.jpg": b"b"},
        {"test/cat/1.jpg": b"b", "test/dog/1.jpg": b"b"},
        {"test/dog/1.jpg": b"b"},
        {"test/1.jpg": b"b", "test/2.jpg": b"b"},
        {"test/cat/1.jpg": b"b", "test/2.jpg": b"b"},
        {"test/cat/notes.txt": b"b"},
    ],
    ids=["there is val", "more classes", "other classes", "flat", "partly flat", "no image"],
)
def test_any_other_test_part_is_listed_once(more: dict[str, bytes], read: Read) -> None:
    source = read(CAT | more)
    assert (names(source, "train"), len(source.val)) == (["train/cat/1.jpg"], "val/cat/2.jpg" in more)
    listed = [entry.removeprefix("train-2/imagenet/") for entry in source.ignored]
    assert listed == ["test/ (a test part is not used)"]
    assert source.notes == ()


def test_a_file_called_test_is_no_part(read: Read) -> None:
    (entry,) = read(CAT | {"test": b""}).ignored
    assert entry.endswith("test (not named as an image)")


def test_other_folders_are_listed_once(read: Read) -> None:
    source = read(CAT | {f"docs/cat/{n}.jpg": b"b" for n in range(3)})
    assert [entry.removeprefix("train-2/imagenet/") for entry in source.ignored] == [
        "docs/ (neither train/ nor val/)"
    ]


def test_a_validation_part_alone_gives_no_image_for_training(read: Read) -> None:
    source = read({"val/dog/1.jpg": b"a", "val/cat/1.jpg": b"b"})
    assert (source.classes, len(source.train)) == (("cat", "dog"), 0)
    assert names(source, "val") == ["val/cat/1.jpg", "val/dog/1.jpg"]


def test_an_empty_training_part_is_refused_in_spite_of_a_validation_part(tmp_path: Path) -> None:
    for folder in ("train", "val/cat"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "val/cat/1.jpg").touch()
    with pytest.raises(UserError, match="holds no image under train/<class>/"):
        recognise(tmp_path)


def test_classes_that_are_numbers_are_in_the_order_of_numbers(read: Read) -> None:
    source = read({f"train/{number}/{number}.jpg": b"a" for number in (10, 2, 0, 1000, 1)})
    assert source.classes == ("0", "1", "2", "10", "1000")
    found = dict(zip(names(source, "train"), source.train["label"].tolist(), strict=True))
    assert found == {f"train/{n}/{n}.jpg": rank for rank, n in enumerate((0, 1, 2, 10, 1000))}


@pytest.mark.parametrize("other", ["cat", "01", "-1", "1.5", "\u0661"])
def test_classes_of_which_one_is_no_plain_number_are_in_the_order_of_text(other: str, read: Read) -> None:
    source = read({f"train/{label}/1.jpg": b"a" for label in ("10", "9", other)})
    assert source.classes == tuple(sorted(("10", "9", other)))


PHOTOS = {f"{label}/{number}.jpg": b"a" for label in ("cat", "dog") for number in (1, 2)}


def test_folders_of_images_without_train_are_the_classes(read: Read) -> None:
    source = read(PHOTOS | {"dog/2021/3.jpg": b"b", ".git/4.jpg": b"", "__MACOSX/cat/._1.jpg": b""})
    assert (source.classes, source.train["label"].tolist()) == (("cat", "dog"), [0, 0, 1, 1, 1])
    assert (len(source.val), source.ignored, source.hidden) == (0, (), 2)
    assert source.notes == ("there is no train/, so each folder is a class: cat/, dog/",)


def test_images_and_files_next_to_the_classes_are_listed(read: Read) -> None:
    source = read(PHOTOS | {"cover.jpg": b"a", "README": b""})
    assert len(source.train) == 4
    assert sorted(entry.rpartition("/")[2] for entry in source.ignored) == [
        "README (not named as an image)",
        "cover.jpg (in no class folder)",
    ]


def test_a_note_names_the_first_three_classes(read: Read) -> None:
    (note,) = read({f"{label}/1.jpg": b"a" for label in "abcd"}).notes
    assert note.endswith(": a/, b/, c/, ...")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            PHOTOS | {"docs/a.txt": b""},
            r"has no image in \S*docs/: without train/ every folder is a class, so name",
        ),
        ({"cat/1.jpg": b"a", "a.txt": b""}, "has images in one folder only, cat/|holds no image under train"),
        ({"1.jpg": b"a", "2.jpg": b"a"}, "holds neither|holds no image under train"),
        ({"a/cat/1.jpg": b"", "b/cat/1.jpg": b""}, "holds neither|holds no image under train"),
        (PHOTOS | {"Testing/a.txt": b""}, "holds neither .* cat, dog|Testing/"),
    ],
    ids=["a folder without images", "one class", "no class", "too deep", "a part"],
)
def test_folders_that_may_be_something_else_are_no_classes(
    files: dict[str, bytes], sentence: str, read: Read
) -> None:
    with pytest.raises(UserError, match=sentence):
        read(files)


def test_what_lies_next_to_the_folder_of_the_classes_in_an_archive_is_listed(tmp_path: Path) -> None:
    files = {"photos/" + name: data for name, data in PHOTOS.items()} | {"docs/a.txt": b"", "README": b""}
    source = recognise(tar(tmp_path / "a.tar", files))
    assert source.classes == ("cat", "dog")
    assert source.ignored == ("docs/ (not next to the classes)", "README (not named as an image)")


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("train", "val"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_accents_may_be_composed_in_one_part_and_decomposed_in_the_other(
    train: str, val: str, read: Read
) -> None:
    source = read({f"train/{train}/1.jpg": b"a", f"val/{val}/2.jpg": b"b"})
    assert source.classes == (COMPOSED,)
    assert names(source, "train") + names(source, "val") == [f"train/{train}/1.jpg", f"val/{val}/2.jpg"]


def test_two_classes_whose_names_look_the_same_are_refused(read: Read) -> None:
    with pytest.raises(UserError, match=r"look the same, '(cafe\\u0301|caf\\xe9)' and .*in two ways: put"):
        read({f"train/{label}/1.jpg": b"a" for label in (COMPOSED, DECOMPOSED)})


def test_names_that_are_no_utf8_are_taken(read: Read, request: pytest.FixtureRequest) -> None:
    label = os.fsdecode(b"caf\xe9")
    if request.node.callspec.params["read"] == "zip":
        return  # names in a zip are in UTF-8 or in a code page of 256 characters: tests/.../test_zip.py
    source = read({f"train/{label}/{label}.jpg": b"a", f"train/{label}/{label}.txt": b""})
    assert source.classes == (label,)
    assert source.ignored[0].endswith(f"{label}.txt (not named as an image)")
    assert names(source, "train") == [f"train/{label}/{label}.jpg"]


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """train/cat with one image, and next to the source a folder with one image."""
    for folder in ("source/train/cat", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.jpg").write_bytes(b"a")
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("link", "target", "images"),
    [
        ("train/cat/2.jpg", "elsewhere/1.jpg", ["train/cat/1.jpg", "train/cat/2.jpg"]),
        ("train/dog", "elsewhere", ["train/cat/1.jpg", "train/dog/1.jpg"]),
    ],
    ids=["file", "class folder"],
)
def test_links_on_disk_are_followed(link: str, target: str, images: list[str], linked: Path) -> None:
    (linked / link).symlink_to(linked.parent / target)
    source = recognise(linked)
    assert (names(source, "train"), source.ignored) == (images, ())


def test_a_part_may_be_a_link(linked: Path) -> None:
    (linked / "val").symlink_to(linked / "train")
    (linked.parent / "all").symlink_to(linked)
    source = recognise(linked.parent / "all")
    assert (names(source, "train"), names(source, "val")) == (["train/cat/1.jpg"], ["val/cat/1.jpg"])


@pytest.mark.parametrize("place", ["train/dog", "train/cat/dog", "train/cat/2.jpg"])
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nothing", "a broken link"),
        ("{itself}", "a broken link"),
        (".", "a link to a folder that contains it"),
        ("/", "a link to a folder that contains it"),
        ("{source}/train", "a link to a folder that contains it"),
        ("{source}/..", "a link to a folder that contains it"),
    ],
)
def test_a_link_that_leads_nowhere_or_in_a_circle_is_listed(
    place: str, target: str, reason: str, linked: Path
) -> None:
    link = linked / place
    link.symlink_to(target.format(itself=link.name, source=linked))
    source = recognise(linked)
    assert names(source, "train") == ["train/cat/1.jpg"]
    assert source.ignored == (f"{place} ({reason})",)


def test_a_class_of_broken_links_is_refused(linked: Path) -> None:
    (linked / "train/dog").mkdir()
    (linked / "train/dog/1.jpg").symlink_to("nothing")
    with pytest.raises(UserError, match="no image in train/dog/"):
        recognise(linked)


def archive_with(path: Path, kind: bytes, target: str, name: str) -> Path:
    """A tar of train/cat/1.jpg, train/dog/1.jpg and a link."""
    tar(path, {"./train/cat/1.jpg": b"cat", "./train/dog/1.jpg": b"dogs"})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, target
        archive.addfile(link)
    return path


def test_a_hard_link_in_a_tar_is_the_image_that_it_names(tmp_path: Path) -> None:
    archive = archive_with(tmp_path / "a.tar", tarfile.LNKTYPE, "./train/dog/1.jpg", "./train/dog/2.jpg")
    first, second = recognise(archive).train[1:]
    assert (first["name"], second["name"]) == (b"./train/dog/1.jpg", b"./train/dog/2.jpg")
    assert first["length"] == second["length"] == 4
    assert archive.read_bytes()[second["offset"] :][:4] == b"dogs"


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "1.jpg"),
        (tarfile.LNKTYPE, "./train/dog/3.jpg"),
        (tarfile.LNKTYPE, "./train/dog/2.jpg"),
    ],
    ids=["symbolic", "to nothing", "to itself"],
)
def test_other_links_in_a_tar_are_listed(kind: bytes, target: str, tmp_path: Path) -> None:
    source = recognise(archive_with(tmp_path / "a.tar", kind, target, "./train/dog/2.jpg"))
    assert source.ignored == ("./train/dog/2.jpg (a link)",)
    assert len(source.train) == 2


def test_a_class_of_links_in_a_tar_is_refused(tmp_path: Path) -> None:
    archive = archive_with(tmp_path / "a.tar", tarfile.SYMTYPE, "../cat/1.jpg", "./train/ape/1.jpg")
    with pytest.raises(UserError, match="no image in train/ape/"):
        recognise(archive)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("/train/cat/9.jpg", "an absolute name"), ("train/../../9.jpg", "a name that climbs out")],
)
def test_a_hard_link_may_not_have_a_name_outside_the_folder(name: str, reason: str, tmp_path: Path) -> None:
    archive = archive_with(tmp_path / "a.tar", tarfile.LNKTYPE, "./train/dog/1.jpg", name)
    assert recognise(archive).ignored == (f"{name} ({reason})",)
