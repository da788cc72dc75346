"""Sets for evaluation alone: which classes they have, and stores without a training part."""

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocess.errors import UserError
from preprocess.evaluation_set import Reference, places_of, read_reference
from preprocess.store import StoreError, open_store
from tests.preprocess.helpers import SIZE, content, draw, encode, make_store, stage

WNIDS = tuple(f"n{number:08d}" for number in range(12))
KNOWN = Reference(
    path=Path("runs/a"), classes=WNIDS, class_names=None, image_size=SIZE, orientation="as-stored"
)


def test_classes_are_matched_by_name() -> None:
    assert places_of([WNIDS[7], WNIDS[2]], KNOWN) == [7, 2]
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert places_of([decomposed], replace(KNOWN, classes=("bar", composed))) == [1]


def test_numbers_are_places_counted_from_0_and_never_sorted_as_text() -> None:
    assert places_of(["0", "1", "10", "11", "2"], KNOWN) == [0, 1, 10, 11, 2]


def test_numbers_that_are_the_networks_own_classes_are_names() -> None:
    assert places_of(["5", "3"], replace(KNOWN, classes=("3", "4", "5"))) == [2, 0]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", WNIDS[0]], r"1 of 2 classes are unknown to runs/a: cat; it has n00000000, n00000001"),
        (["0", "12"], "1 of 2 classes are unknown to runs/a: 12; it has numbers from 0 to 11"),
        (["1", "01"], "two classes have one number"),
    ],
)
def test_classes_that_do_not_fit_are_refused(classes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        places_of(classes, KNOWN)


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twelve classes."""
    folder = tmp_path_factory.mktemp("trained-on")
    for label, wnid in enumerate(WNIDS):
        for part in ("train", "val"):
            (folder / "set" / part / wnid).mkdir(parents=True)
            picture = encode(draw(label, 50, 40))
            (folder / "set" / part / wnid / f"{part}.JPEG").write_bytes(picture)
    size = ("--image-size", SIZE, "--shard-length", 4)
    return make_store(folder / "set", folder / "store.zarr", *size)


FLAGS = ("--image-size", SIZE, "--shard-length", 4, "--split", "val")


def numbered(folder: Path) -> Path:
    """The first eleven pictures in folders with numbers as names, as ImageNet-V2 is."""
    for label in range(11):
        (folder / str(label)).mkdir(parents=True)
        (folder / str(label) / "a.jpeg").write_bytes(encode(draw(label, 50, 40)))
    return folder


def test_an_evaluation_set_has_the_classes_of_the_store_that_is_named(
    trained_on: Path, tmp_path: Path
) -> None:
    made = make_store(numbered(tmp_path / "v2"), tmp_path / "v2.zarr", *FLAGS, "--classes", trained_on)
    store, known = open_store(made), open_store(trained_on)
    assert (len(store.train), len(store.val), store.classes) == (0, 11, WNIDS[:11])
    order, other = np.argsort(store.val.labels), np.argsort(known.val.labels)[:11]
    np.testing.assert_array_equal(store.val.labels[order], np.arange(11))
    np.testing.assert_array_equal(store.val.read(order), known.val.read(other))
    assert np.isnan(store.mean).all()  # there is no mean image that anybody could subtract by mistake
    again = make_store(tmp_path / "v2", tmp_path / "again.zarr", *FLAGS, "--classes", trained_on)
    first, second = content(made), content(again)
    assert {name: first[name] for name in first if name != "zarr.json"} == {
        name: second[name] for name in second if name != "zarr.json"
    }
    described = stage("store", "--store", made)
    assert "11 classes, 11 images, for evaluation alone" in described.stdout
    page = stage("report", "--store", made)
    assert page.returncode == 0, page.stderr
    assert "nan" not in made.with_name("v2.zarr.html").read_text()


def test_without_classes_the_folders_are_the_classes(tmp_path: Path) -> None:
    store = open_store(make_store(numbered(tmp_path / "set"), tmp_path / "set.zarr", *FLAGS))
    assert store.classes == tuple(map(str, range(11)))


def test_wrong_settings_are_one_sentence(trained_on: Path, tmp_path: Path) -> None:
    folder, store = numbered(tmp_path / "set"), tmp_path / "set.zarr"
    for words, message in (
        (("--classes", trained_on), "add split=val"),
        (
            ("--split", "val", "--classes", trained_on),
            f"have {SIZE} pixels a side, not 256: add image_size={SIZE}",
        ),
        (("--split", "val", "--classes", tmp_path / "no"), "has no classes that can be read"),
        (("--split", "val", "--classes", folder), "has no classes that can be read"),
    ):
        done = stage("index", "--imagenet", folder, "--store", store, *words)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    with pytest.raises(UserError, match="no classes that can be read"):
        read_reference(folder / "0/a.jpeg", SIZE)


ABOUT = {"about": json.dumps({"classes": ["cat"], "class_names": None})}
UNNAMED = {"about": json.dumps({"classes": ["cat"], "class_names": []})}


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": "cat", "mean_image": {"shape": [SIZE]}},
        {"__metadata__": ABOUT, "mean_image": {"shape": ["wide"]}},
        {"__metadata__": ABOUT, "mean_image": {"shape": []}},
        {"__metadata__": ABOUT},
        {"__metadata__": UNNAMED, "mean_image": {"shape": [SIZE]}},
        [1],
    ],
)
def test_a_damaged_network_is_one_sentence(header: object, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    network = tmp_path / "network.safetensors"
    network.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(UserError, match="no classes that can be read"):
        read_reference(network, SIZE)


def test_an_unfinished_store_has_no_classes_to_evaluate_with(trained_on: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(trained_on, tmp_path / "unfinished.zarr")
    group = json.loads((unfinished / "zarr.json").read_text())
    del group["attributes"]["fingerprint"]
    (unfinished / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(UserError, match="name a finished store"):
        read_reference(unfinished, SIZE)


def test_a_validation_part_alone_is_refused_with_the_way_out(tmp_path: Path) -> None:
    numbered(tmp_path / "set/val")
    done = stage("index", "--imagenet", tmp_path / "set", "--store", tmp_path / "set.zarr")
    assert "only a validation part" in done.stderr
    assert "split=val classes=RUN" in done.stderr
    store = open_store(make_store(tmp_path / "set", tmp_path / "set.zarr", *FLAGS))
    assert len(store.val) == 11


def test_a_store_without_images_for_training_is_no_store_to_train_on(tmp_path: Path) -> None:
    from trainer.data.batches import open_training_data
    from trainer.errors import UserError as TrainerError

    made = make_store(numbered(tmp_path / "set"), tmp_path / "set.zarr", *FLAGS)
    with pytest.raises(TrainerError, match="no training part, it is for evaluation alone"):
        open_training_data(made)
    (made / "val/images/zarr.json").unlink()
    with pytest.raises(StoreError):
        open_store(made)
