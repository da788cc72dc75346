"""WebDatasets, written by webdataset itself or by tarfile where it would refuse what is tested."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.containers.fetch import OPEN
from preprocess.errors import UserError
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import ROOT, TIMEOUT, images_of, snakemake, stage, tar

WNIDS = ("n01440764", "n01443537", "n02102040")


def sample(key: str, label: int, **more: bytes) -> dict[str, bytes]:
    """The members of a sample, by name."""
    members = {"cls": str(label).encode(), "jpg": key.encode() * 100} | more
    return {f"{key}.{extension}": data for extension, data in members.items()}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two tars for training and one for validation, with labels 0, 1 and 2 whose images have no wnid."""
    root = tmp_path / "small"
    root.mkdir()
    for name, numbers in (("train-0", range(6)), ("train-1", range(6, 9)), ("validation-0", range(3))):
        members = {}
        for number in numbers:
            members |= sample(f"{number:04d}", number % 3)
        tar(root / f"{name}.tar", members)
    return root


def test_a_set_that_webdataset_wrote_has_the_images_and_classes_that_were_written(tmp_path: Path) -> None:
    import webdataset

    images = {
        part: [(wnid, f"{wnid}_{number}", os.urandom(300)) for wnid in WNIDS for number in range(4)]
        for part in ("train", "val")
    }
    stems = {"train": "imagenet1k-train-%04d.tar", "val": "imagenet1k-validation-%02d.tar"}
    for part, stem in stems.items():
        with webdataset.ShardWriter(str(tmp_path / stem), maxcount=5, verbose=0) as writer:
            for wnid, key, data in images[part]:
                about = {"label": WNIDS.index(wnid), "filename": f"{key}.JPEG"}
                writer.write({"__key__": key, "jpg": data, "cls": about["label"], "json": about})
    for _ in range(2):  # from the tars, and from the lists that were kept
        source = recognise(tmp_path, tmp_path / ".cache")
        assert (source.classes, len(source.archives)) == (WNIDS, 6)
        for part, written in images.items():
            assert images_of(source, part) == sorted((wnid, data) for wnid, _, data in written)
            names = [Path(os.fsdecode(name)).name for name in getattr(source, part)["name"].tolist()]
            assert sorted(names) == [f"{key}.jpg" for _, key, _ in written]
        assert (source.ignored, source.notes) == ((), ())


def test_labels_without_wnids_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in (10, 9, 2, 100):
        members |= sample(f"a/{number}", number)
    source = recognise(tar(tmp_path / "images.tar", members))
    assert source.classes == ("2", "9", "10", "100")
    assert ("10", b"a/10" * 100) in images_of(source, "train")


def test_parts_are_in_names_of_files_or_folders_and_test_is_left_aside(tmp_path: Path) -> None:
    for name in ("train/0.tar", "validation/0.tar", "test/0.tar", "extra.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tar(tmp_path / name, sample("a", 1))
    (tmp_path / "README.md").touch()
    (tmp_path / "._x.tar").touch()
    source = recognise(tmp_path)
    assert source.train["name"].tolist() == [b"train/0.tar/a.jpg"]
    assert source.val["name"].tolist() == [b"validation/0.tar/a.jpg"]
    assert sorted(source.ignored) == [
        "README.md (not a tar)",
        "extra.tar (named neither train nor validation)",
        "test/0.tar (a test part is not used)",
    ]
    assert source.hidden == 1


def test_tars_without_a_part_in_their_names_are_for_training(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"{number:05d}.tar", sample(f"{number}", number))
    source = recognise(tmp_path)
    assert (len(source.train), len(source.val)) == (3, 0)


def test_braces_name_some_of_the_tars(small: Path) -> None:
    some = recognise(small / "{train-{0..1},validation-0}.tar")
    assert some.archives == ("train-0.tar", "train-1.tar", "validation-0.tar")
    assert (some.root, len(some.train), len(some.val)) == (small, 9, 3)
    assert recognise(small / "train-{0..0}.tar").archives == ("train-0.tar",)
    sentence = r"stands for 9 archives, and 7 of them are not there, such as .*/train-2\.tar"
    with pytest.raises(UserError, match=sentence):
        recognise(small / "train-{0..8}.tar")
    with pytest.raises(UserError, match="stands for more than 131072 archives"):
        recognise(small / "train-{0..131072}.tar")


def test_braces_reach_the_first_stage(small: Path, tmp_path: Path) -> None:
    chosen = f"imagenet={small}/{{train-{{0..1}},validation-0}}.tar"
    run = snakemake("--config", chosen, f"store={tmp_path}/a.zarr", "--until", "index")
    assert run.returncode == 0, run.stderr
    assert "WebDataset, a subset" in run.stdout + run.stderr
    assert "9 images for training, 3 for validation" in run.stdout + run.stderr


INFO = {
    "splits": {
        "train": {"filenames": ["train-0.tar", "train-1.tar"], "shard_lengths": [6, 3]},
        "validation": {"filenames": ["validation-0.tar"], "shard_lengths": [3]},
        "test": {"filenames": ["test-0.tar"], "shard_lengths": [3]},
    }
}


def test_the_tars_are_compared_with_the_list_of_them(small: Path) -> None:
    (small / "_info.json").write_text(json.dumps(INFO))
    assert recognise(small).ignored == ()
    (small / "train-0.tar").rename(small.parent / "away.tar")
    with pytest.raises(UserError, match=r"lacks 1 archives that _info\.json names, such as train-0\.tar"):
        recognise(small)
    assert len(recognise(small / "{train-1,validation-0}.tar").train) == 3
    tar(small / "train-0.tar", sample("1", 0))
    with pytest.raises(UserError, match=r"train-0\.tar holds 1 samples, and _info\.json says 6"):
        recognise(small)
    (small / "_info.json").write_text("{")
    with pytest.raises(UserError, match=r"_info\.json is not JSON: get it again, or remove it"):
        recognise(small)


def again(members: dict[str, bytes]) -> dict[str, bytes]:
    """One more sample of label 1 behind these."""
    return members | sample("z", 1)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (again(sample("a", 0)) | {"a.json": b"{}"}, "has members of the key a in two places"),
        (sample("a", 0, png=b"x"), r"two images in one sample, a\.jpg and a\.png"),
        (sample("a", 0) | sample("b", 0, cls=b"cat"), r"has 'cat' in b\.cls, and a label must be a whole"),
        (sample("a", 0) | sample("b", 0, cls=b"1" * 50), r"has '1{20}'\.\.\. in b\.cls"),
        (sample("a", 0, json=b'{"label": 1}'), r"the label 0 in a\.cls and 1 in a\.json"),
        (sample(WNIDS[0], 0) | sample(f"{WNIDS[0]}_2", 1), f"both have the wnid {WNIDS[0]}"),
        (
            sample(WNIDS[0], 0, json=b'{"filename": "n01443537_1.JPEG"}'),
            f"the wnid {WNIDS[0]} in the key {WNIDS[0]} and {WNIDS[1]} in",
        ),
    ],
    ids=["a key twice", "two images", "text", "long", "two labels", "one wnid of two labels", "two wnids"],
)
def test_samples_that_contradict_themselves_are_refused(
    members: dict[str, bytes], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        recognise(tar(tmp_path / "a.tar", members))


def test_members_that_are_no_whole_sample_are_named(tmp_path: Path) -> None:
    members = sample("a", 0, txt=b"a caption")
    members |= {
        "b.jpg": b"b",
        "c.cls": b"3",
        "d.cls": b"-1",
        "d.jpg": b"d",
        "README": b"",
        ".hidden.jpg": b"",
    }
    members |= {"e.json": b'{"label": 4}', "e.png": b"e", "f.json": b"{", "f.png": b"f"}
    source = recognise(tar(tmp_path / "a.tar", members))
    assert source.classes == ("0", "4")
    assert source.train["name"].tolist() == [b"a.tar/a.jpg", b"a.tar/e.png"]
    assert source.ignored == (
        "a.tar/b.jpg (without a label)",
        "a.tar/c (a sample without an image)",
        "a.tar/README (a name without a key and an extension)",
        "a.tar/d.jpg (without a label)",
        "a.tar/f.png (without a label)",
    )
    assert (source.hidden, source.notes) == (1, ("members that were not used: .txt",))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ((0, 1, 2), WNIDS),
        ((5, 7, 90), WNIDS),
        ((2, 1, 0), ("0", "1", "2")),
        ((0, 1, 1), ("0", "1")),
    ],
    ids=["ranks", "some of more classes", "another order", "two wnids of one number"],
)
def test_wnids_are_the_classes_where_they_have_the_order_of_the_labels(
    labels: tuple[int, ...], classes: tuple[str, ...], tmp_path: Path
) -> None:
    members: dict[str, bytes] = {}
    for number, (wnid, label) in enumerate(zip(WNIDS, labels, strict=True)):
        members |= sample(f"{number}", label, json=json.dumps({"filename": f"{wnid}_18.JPEG"}).encode())
    assert recognise(tar(tmp_path / "a.tar", members)).classes == classes


def test_a_validation_label_that_training_lacks_is_refused(small: Path) -> None:
    tar(small / "validation-0.tar", sample("a", 3))
    with pytest.raises(UserError, match=r"the label 3, of validation-0\.tar/a\.jpg, in the validation part"):
        recognise(small)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: os.truncate(root / "train-1.tar", 700), r"train-1\.tar is damaged or cut off"),
        (lambda root: (root / "train/cat").mkdir(parents=True), "both tars of a WebDataset and train/cat/"),
    ],
    ids=["cut off", "class folders too"],
)
def test_an_incomplete_or_ambiguous_set_is_refused(
    spoil: Callable[[Path], object], sentence: str, small: Path
) -> None:
    spoil(small)
    with pytest.raises(UserError, match=sentence):
        recognise(small)


def test_a_tar_of_class_folders_is_no_webdataset(tmp_path: Path) -> None:
    members = {"train/cat/1.jpg": b"a", "train/cat/1.json": b'{"label": 1}', "train/dog/1.jpg": b"b"}
    assert recognise(tar(tmp_path / "a.tar", members)).kind == "class folders in a tar"


def test_more_tars_than_may_be_open_are_read(tmp_path: Path) -> None:
    for number in range(OPEN + 40):
        tar(tmp_path / f"{number:03d}.tar", sample(f"{number}", number % 7))
    store = tmp_path.with_name("a.zarr")
    made = stage("index", "--imagenet", tmp_path, "--store", store, "--validation-fraction", 0.3)
    assert made.returncode == 0, made.stderr
    program = (
        "import resource, sys; from pathlib import Path; from preprocess.containers.fetch import fetch\n"
        "from preprocess.plan import load_plan, load_table\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({OPEN} + 16,) * 2)\n"
        f"store = Path({str(store)!r})\n"
        "for image in fetch(store, load_plan(store), load_table(store, 'train')):\n"
        "    assert image.read() == Path(image.name).stem.encode() * 100\n"
        "    print(image.name)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert run.returncode == 0, run.stderr
    assert len(set(run.stdout.split())) == round(0.7 * (OPEN + 40))
