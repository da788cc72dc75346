import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.report import table
from preprocess.store import open_store
from tests.preprocess.helpers import CLASSES, SIZE, stage


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
    assert re.search(r"train images\n73", page.text)
    assert re.search(r"\nshards\n\S+ \S+\n[\d.]+ s\n7 shards with 91 images", page.text)  # when, how long


def test_cells_of_a_table_are_escaped() -> None:
    assert table([("<script>", "&")]) == "<table><tr><td>&lt;script&gt;</td><td>&amp;</td></tr></table>"
