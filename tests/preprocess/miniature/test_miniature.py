"""The miniature has the official layout, and simple statistics of its images do not tell their classes."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from preprocess.miniature.drawing import encode
from preprocess.miniature.imagenet import make
from tests.preprocess.helpers import ROOT, stage

TRAIN, VAL = 400, 200
DEVKIT = "ILSVRC2012_devkit_t12"
COMMAND = (sys.executable, "-m", "preprocess.miniature")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature") / "imagenet"
    make(folder, TRAIN, VAL, seed=0)
    return folder


def members(archive: Path | bytes) -> dict[str, bytes]:
    source = io.BytesIO(archive if isinstance(archive, bytes) else archive.read_bytes())
    with tarfile.open(fileobj=source) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@cache
def synsets(folder: Path) -> Any:
    meta = members(folder / f"{DEVKIT}.tar.gz")[f"{DEVKIT}/data/meta.mat"]
    return loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]


@cache
def images(folder: Path, split: str) -> dict[str, tuple[int, bytes]]:
    """Label and content by name, read by the official layout, without this program's code."""
    leaves = {
        int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets(folder) if not row["num_children"]
    }
    classes = sorted(leaves.values())
    if split == "train":
        tars = members(folder / "ILSVRC2012_img_train.tar")
        assert list(tars) == [f"{wnid}.tar" for wnid in classes]
        return {
            name: (label, content)
            for label, tar in enumerate(tars.values())
            for name, content in members(tar).items()
        }
    truth = members(folder / f"{DEVKIT}.tar.gz")[f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt"]
    labels = [classes.index(leaves[int(line)]) for line in truth.split()]
    files = members(folder / "ILSVRC2012_img_val.tar")
    assert list(files) == [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, VAL + 1)]
    return dict(zip(files, zip(labels, files.values(), strict=True), strict=True))


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        make(tmp_path / name, 20, 20, seed)
        time.sleep(1.1 if name == "one" else 0)  # tar, gzip and MAT files hold the time in seconds
    one, same, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "same", "other")
    )
    assert one == same
    assert all(one[name] != other[name] for name in one)


def test_the_devkit_has_the_real_fields_and_ids_in_another_order_than_wnids(miniature: Path) -> None:
    rows = synsets(miniature)
    assert rows.dtype.names == (
        *("ILSVRC2012_ID", "WNID", "words", "gloss"),
        *("num_children", "children", "wordnet_height", "num_train_images"),
    )
    assert [int(id_) for id_ in rows["ILSVRC2012_ID"]] == list(
        range(1, 14)
    )  # ten classes, then three families
    assert [bool(n) for n in rows["num_children"]] == [False] * 10 + [True] * 3
    assert all(np.size(row["children"]) == row["num_children"] for row in rows)
    assert list(rows["WNID"][:10]) != sorted(rows["WNID"][:10])
    assert set(rows["num_train_images"][:10]) == {TRAIN // 10}


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("val", VAL)])
def test_labels_in_the_archives_are_those_of_the_drawn_images(
    miniature: Path, split: Any, count: int
) -> None:
    found = images(miniature, split)
    assert len(found) == count
    assert set(Counter(label for label, _ in found.values()).values()) == {count // 10}
    for name in list(found)[:: count // 10]:
        label, content = found[name]
        number = int(name.removesuffix(".JPEG").split("_")[-1])
        assert content == encode(0, split, number, label)
        assert content != encode(0, split, number, (label + 1) % 10)


def test_validation_images_come_in_random_order(miniature: Path) -> None:
    labels = [label for label, _ in images(miniature, "val").values()]
    assert 0.02 < np.mean(np.diff(labels) == 0) < 0.2  # a tenth by chance


def test_odd_formats_of_the_real_set_are_there_under_jpeg_names(miniature: Path) -> None:
    for split, foreign in (("train", {("PNG", "RGB"): 1, ("JPEG", "CMYK"): 1}), ("val", {})):
        kinds: Counter[tuple[str | None, str]] = Counter()
        for name, (_, content) in images(miniature, split).items():
            assert name.endswith(".JPEG")
            image = Image.open(io.BytesIO(content))
            kinds[image.format, image.mode] += 1
        assert kinds.pop(("JPEG", "L")) >= 1
        assert kinds.pop(("JPEG", "RGB")) > 0.9 * len(images(miniature, split))
        assert kinds == foreign


def test_images_have_many_sizes_landscape_portrait_and_panorama(miniature: Path) -> None:
    sizes = [Image.open(io.BytesIO(content)).size for _, content in images(miniature, "train").values()]
    assert len(set(sizes)) > TRAIN / 2
    shorter = [min(size) for size in sizes]
    assert 180 <= min(shorter) < 200
    assert 440 < max(shorter) <= 500
    assert sum(width > height for width, height in sizes) > TRAIN / 4
    assert sum(width < height for width, height in sizes) > TRAIN / 4
    assert any(max(size) > 2 * min(size) for size in sizes)


def seen(folder: Path, split: str) -> tuple[Any, Any]:
    """Central squares of 16x16 pixels, float64 [image, 16, 16, 3] of 0..1, and their labels."""
    small, labels = [], []
    for label, content in images(folder, split).values():
        image = Image.open(io.BytesIO(content)).convert("RGB")
        side = min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
        small.append(np.asarray(image.resize((16, 16), Image.Resampling.BOX, box)) / 255)
        labels.append(label)
    return np.array(small), np.array(labels)


def accuracies(known: Any, labels: Any, asked: Any, truth: Any) -> tuple[float, float]:
    """Accuracies of the nearest class mean, and of the best of several ridge regressions (optimistic)."""
    known, asked = (x.reshape(len(x), -1) - known.reshape(len(known), -1).mean(0) for x in (known, asked))
    means = np.array([known[labels == label].mean(0) for label in range(10)])
    nearest = ((asked[:, None] - means) ** 2).sum(2).argmin(1)
    eye = np.eye(known.shape[1])
    fits = (
        np.linalg.solve(known.T @ known + r * eye, known.T @ np.eye(10)[labels]) for r in (0.1, 1, 10, 100)
    )
    return float((nearest == truth).mean()), max(float(((asked @ w).argmax(1) == truth).mean()) for w in fits)


def test_mean_colour_and_coarse_pixels_do_not_tell_the_class(miniature: Path) -> None:
    (known, labels), (asked, truth) = seen(miniature, "train"), seen(miniature, "val")
    # measured on the whole default set: 9 % and 11 %, and chance is 10 %; then 15 % and 38 %
    assert max(accuracies(known.mean((1, 2)), labels, asked.mean((1, 2)), truth)) < 0.2
    assert max(accuracies(known.mean(3), labels, asked.mean(3), truth)) < 0.45
    # a corner whose brightness tells the class is found
    known[:, 0, 0] += 3 * labels[:, None]
    asked[:, 0, 0] += 3 * truth[:, None]
    assert accuracies(known[:, 0, 0], labels, asked[:, 0, 0], truth)[0] > 0.9


def test_a_folder_with_this_miniature_is_kept_and_any_other_refused(tmp_path: Path) -> None:
    words = (tmp_path / "set", "--train", 20, "--val", 20)
    assert stage("miniature", *words).returncode == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    again = stage("miniature", *words)
    assert (again.returncode, again.stdout) == (0, f"{tmp_path / 'set'} already holds this miniature\n")
    other = stage("miniature", *words, "--seed", 1)
    assert other.returncode == 1
    assert other.stderr.startswith(f"error: {tmp_path / 'set'} holds something else")
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}


def test_a_number_of_images_that_is_no_multiple_of_the_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--val must be a multiple of 10, not 25"):
        make(tmp_path / "set", 20, 25)
    assert not list(tmp_path.iterdir())


def test_a_killed_run_leaves_no_folder_and_the_next_one_succeeds(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    run = subprocess.Popen((*COMMAND, str(folder)), cwd=ROOT, start_new_session=True)
    while not list(tmp_path.glob(".miniature-*/set/ILSVRC2012_img_train.tar")):
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not folder.exists()
    make(folder, 20, 20)
    assert folder.exists()
