"""The same photographs give the same images, labels and classes, however they lie on the disk."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.plan import SPLITS, archives_folder
from preprocess.sources.recognise import recognise
from preprocess.store import open_store
from tests.layouts import VARIANTS, WORDS, WRITERS, Photo, Writer, class_tars, write_files, zip_of
from tests.preprocess.helpers import SHARD_LENGTH, SIZE, images_of, make_store

CLASSES = tuple(sorted(WORDS))
TRAIN, VAL = 24, 6
LAYOUTS = WRITERS | VARIANTS


def photographs() -> Iterator[Photo]:
    random = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("val", VAL)):
        for number in range(1, count + 1):
            data = io.BytesIO()
            pixels = random.integers(0, 256, (8, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data, "JPEG", comment=f"{part} {number}")  # each has its own bytes
            yield Photo(part, CLASSES[number % len(CLASSES)], number, data.getvalue())


PHOTOS = list(photographs())
EXPECTED = {
    split: sorted((photo.wnid, photo.data) for photo in PHOTOS if photo.part == split) for split in SPLITS
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_labels(layout: str, tmp_path: Path) -> None:
    folder, store = tmp_path / "source", tmp_path / "store"
    folder.mkdir()
    source = recognise(LAYOUTS[layout](folder, PHOTOS), archives_folder(store))
    assert source.classes == CLASSES
    assert source.class_names in (None, tuple(WORDS[wnid] for wnid in CLASSES))
    for split in SPLITS:
        assert images_of(source, split, store) == EXPECTED[split]


NAMED = ("official tars", "Kaggle's tree", "Kaggle's zip", "Tiny ImageNet", "Hugging Face, parquet")


@pytest.mark.parametrize("layout", NAMED)
def test_classes_have_the_names_that_the_source_gives_them(layout: str, tmp_path: Path) -> None:
    assert recognise(LAYOUTS[layout](tmp_path, PHOTOS), tmp_path / "cache").class_names is not None


ALONE = [photo for photo in PHOTOS if photo.part == "train"]
WITHOUT_VAL: dict[str, Writer] = {
    "folders": lambda folder, photos: write_files(
        folder, ((p.path.partition("/")[2], p.data) for p in photos)
    ),
    "zip": lambda folder, photos: zip_of(
        folder / "a.zip", ((f"photos/{p.path.partition('/')[2]}", p.data) for p in photos)
    ),
    "tars": lambda folder, photos: write_files(folder, class_tars(photos)),
    "tars in train/": lambda folder, photos: write_files(folder / "train", class_tars(photos)),
}


@pytest.mark.parametrize("layout", WITHOUT_VAL)
def test_layouts_without_parts_have_training_images_alone(layout: str, tmp_path: Path) -> None:
    source = recognise(WITHOUT_VAL[layout](tmp_path, ALONE), tmp_path / "cache")
    assert (source.classes, len(source.val)) == (CLASSES, 0)
    assert images_of(source, "train") == EXPECTED["train"]


TRAINING = {  # the files that only the training part needs
    "official tars": "ILSVRC2012_img_train.tar",
    "class folders": "train/*/*",
    "Hugging Face, tar.gz": "data/train*",
    "Hugging Face, parquet": "data/train*",
    "WebDataset": "*train*",
}


@pytest.mark.parametrize(("layout", "pattern"), TRAINING.items())
def test_a_validation_part_alone_can_be_read_to_evaluate_on_it(
    layout: str, pattern: str, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    place = LAYOUTS[layout](tmp_path / "source", PHOTOS)
    for path in place.glob(pattern):
        path.unlink()
    for path in (*place.glob("train/*"), *place.glob("train")):
        path.rmdir()
    source = recognise(place, archives_folder(tmp_path / "store"))
    assert (source.classes, len(source.train)) == (CLASSES, 0)
    assert images_of(source, "val", tmp_path / "store") == EXPECTED["val"]


def statistics_and_images(layout: str, folder: Path) -> tuple[bytes, list[tuple[str, int, bytes]]]:
    """Of a store made from the layout: mean image and eigenvectors; split, label and pixels of each image."""
    (folder / "source").mkdir(parents=True)
    size = ("--image-size", SIZE, "--shard-length", SHARD_LENGTH)
    store = open_store(make_store(LAYOUTS[layout](folder / "source", PHOTOS), folder / "store.zarr", *size))
    images = [
        (split.path.name, label, image.tobytes())
        for split in (store.train, store.val)
        for label, image in zip(split.labels.tolist(), split.read(np.arange(len(split))), strict=True)
    ]
    return store.mean.tobytes() + store.eigenvectors.tobytes(), images


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[tuple[str, int, bytes]]]:
    return statistics_and_images("class folders", tmp_path_factory.mktemp("expected"))


ARCHIVES = ("class folders, zip", "Hugging Face, tar.gz", "Hugging Face, parquet", "WebDataset")


@pytest.mark.parametrize("layout", ARCHIVES)
def test_stores_have_the_same_images_and_statistics(
    layout: str, expected: tuple[bytes, list[tuple[str, int, bytes]]], tmp_path: Path
) -> None:
    statistics, images = statistics_and_images(layout, tmp_path)
    assert (statistics, sorted(images)) == (expected[0], sorted(expected[1]))
    if layout == "class folders, zip":  # names have one prefix more, and so the same order
        assert images == expected[1]
