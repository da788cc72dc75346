import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.page.html import table
from preprocess.report import by_class, find_classes
from preprocess.store import open_store
from tests.preprocess.helpers import CLASSES, SIZE, encode, make_store, stage


class Page(HTMLParser):
    """The text, images and circles of a page. Tags that would load something are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.circles, self.text = 0, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.circles += tag == "circle"
        self.images += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_shows_images_classes_counts_and_repairs_and_loads_nothing(
    store: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "a.zarr"))
    run = stage("report", "--store", copy)
    assert run.returncode == 0, run.stderr
    page = Page((tmp_path / "a.zarr.html").read_text())
    assert len(page.images) == 48 + 1
    images = []
    for source in page.images:
        head, _, data = source.partition(",")
        assert head == "data:image/jpeg;base64"
        images.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
    assert {image.shape for image in images} == {(SIZE, SIZE, 3)}
    assert np.abs(images[-1] - open_store(copy).mean).mean() < 6  # JPEG of the mean image
    assert page.circles == 1500
    for text in (*CLASSES, "train/n01/30.JPEG", "greyscale", "class folders", open_store(copy).fingerprint):
        assert text in page.text
    assert re.search(r"training images\n73", page.text)
    assert re.search(r"\nshards\n\S+ \S+\n[\d.]+ s\n7 shards with 91 images", page.text)  # when, how long


def test_cells_of_a_table_are_escaped() -> None:
    assert table([("<script>", "&")]) == "<table><tr><td>&lt;script&gt;</td><td>&amp;</td></tr></table>"


def test_the_page_tells_classes_sizes_and_what_was_left_aside(tmp_path: Path) -> None:
    imagenet = tmp_path / "imagenet"
    sides = {
        "train/n01440764": (20, 40, 600),
        "train/n02012849": (64,),
        "val/n01440764": (5000,),
        "val/n02012849": (63,),
    }
    for folder, widths in sides.items():
        (imagenet / folder).mkdir(parents=True)
        for width in widths:
            image = Image.new("RGB", (width, width + 1))
            (imagenet / folder / f"{width}.jpg").write_bytes(encode(image))
    for name in ("train/n01440764/a.avif", "train/n01440764/b.avif", "notes.txt", ".DS_Store"):
        (imagenet / name).write_bytes(b"")
    store = make_store(imagenet, tmp_path / "a.zarr", "--image-size", 224, "--orientation", "as-stored")
    assert stage("report", "--store", store).returncode == 0
    text = Page((tmp_path / "a.zarr.html").read_text()).text
    assert "tench, Tinca tinca (n01440764)\n3\n1\ncrane (n02012849)\n1\n1\n" in text
    assert "In pixels, before the resize: 20 to 5000.\n" in text
    bins = {
        "below 32": 1,
        "32 to 63": 2,
        "64 to 127": 1,
        "512 to 767": 1,
        "768 to 1023": 0,
        "4096 and more": 1,
    }
    for name, count in bins.items():
        assert f"{name}\n{count}\n" in text
    assert "AVIF, which cannot be read\n2\ntrain/n01440764/a.avif, train/n01440764/b.avif\n" in text
    assert "not named as an image\n1\nnotes.txt\n" in text
    assert "hidden\n1\n" in text
    # an earlier version recorded neither
    for path in (store / ".preprocess/records").glob("*/*.json"):
        record = json.loads(path.read_text())
        del record["sides"]
        path.write_text(json.dumps(record))
    (store / ".preprocess/aside.json").unlink()
    assert stage("verify", "--store", store).returncode == 0
    assert stage("report", "--store", store).returncode == 0
    assert Page((tmp_path / "a.zarr.html").read_text()).text.count("Not recorded") == 2


def test_many_classes_are_shown_by_their_numbers_of_images(store: Path) -> None:
    classes = tuple(f"c{number:03d}" for number in range(100))
    labels = np.repeat(np.arange(100), np.arange(100) + 200)  # 200 to 299 images
    opened = open_store(store)
    many = replace(opened, classes=classes, train=replace(opened.train, labels=labels.astype(np.int16)))
    text = Page(by_class(many)).text
    assert "200 to 208\n9\n209 to 217\n9\n" in text
    assert "c000\n200\n" in text
    assert "c099\n299\n" in text
    assert "c050" not in text


def test_a_page_shows_the_images_of_the_classes_that_are_named(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "a.zarr"))
    counts = np.bincount(open_store(copy).train.labels)
    for words, images in (
        (["n02"], counts[1]),
        (["2", "n01"], counts[0] + counts[2]),
        (["all"], counts.sum()),
    ):
        done = stage("report", "--store", copy, "--classes", *words)
        assert done.returncode == 0, done.stderr
        page = Page((tmp_path / "a.zarr.classes.html").read_text())
        assert len(page.images) == images
    done = stage("report", "--store", copy, "--classes", "n04")
    assert done.returncode == 1
    assert "has no class n04: name one such as n01, an index from 0 to 2, or all" in done.stderr


def test_a_word_means_all_classes_that_have_it(store: Path) -> None:
    named = replace(open_store(store), class_names=("tench, Tinca tinca", "crane", "crane, derrick"))
    assert find_classes(named, ["Crane"]) == [1, 2]
    assert find_classes(named, ["tinca tinca"]) == [0]
    assert find_classes(named, ["n02", "2"]) == [1, 2]
