"""The whole command, with real files and processes."""

import os
import shutil
from pathlib import Path

import numpy as np
import zarr
from PIL import Image

from preprocess.store import open_store
from tests.preprocess.helpers import (
    CLASSES,
    SHARD_LENGTH,
    SIZE,
    content,
    draw,
    encode,
    make_store,
    settings,
    snakemake,
    stage,
)


def modified(store: Path) -> dict[Path, int]:
    """When each file of a store was last written, logs left out."""
    files = (path for path in store.rglob("*") if path.is_file() and path.suffix != ".log")
    return {path: path.stat().st_mtime_ns for path in files}


def by_hand(path: Path) -> np.ndarray:
    """A stored image, by Pillow's own calls."""
    image = Image.open(path).convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (int(side * scale + 0.5) for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)))


def test_the_store_holds_every_image_once_with_its_label(imagenet: Path, store: Path) -> None:
    opened = open_store(store)
    assert opened.classes == CLASSES
    for split in (opened.train, opened.val):
        expected = sorted(
            (by_hand(path).tobytes(), CLASSES.index(path.parent.name))
            for path in (imagenet / split.path.name).glob("*/*")
        )
        images = split.read(np.arange(len(split)))
        assert (
            sorted(zip((image.tobytes() for image in images), split.labels.tolist(), strict=True)) == expected
        )
        assert (np.diff(split.labels) != 0).sum() > len(split) / 3  # shuffled, not class by class


def test_statistics_are_those_of_numpy_on_all_training_pixels(store: Path) -> None:
    opened = open_store(store)
    images = zarr.open_group(store, mode="r")["train/images"][:]  # by another reader than the trainer's
    np.testing.assert_array_equal(opened.mean, images.mean(axis=0, dtype=np.float64).astype(np.float32))
    values, vectors = np.linalg.eigh(np.cov(images.reshape(-1, 3).T.astype(np.float64), bias=True))
    np.testing.assert_allclose(opened.eigenvalues, values[::-1], rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(opened.eigenvectors * vectors[:, ::-1], axis=0)), 1, rtol=1e-10)


def test_repairs_are_listed_by_kind_and_name(store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    counts = {"CMYK": 1, "PNG in a .JPEG": 1, "greyscale": 1}
    assert root.attrs["repairs"] == {"train": counts, "val": {}}
    assert root["train"].attrs["repairs"] == {
        "CMYK": ["train/n01/30.JPEG"],
        "PNG in a .JPEG": ["train/n02/55.JPEG"],
        "greyscale": ["train/n03/5.JPEG"],
    }


def test_one_worker_and_two_give_the_same_bytes_and_a_second_run_does_nothing(
    imagenet: Path, store: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.zarr"
    run = snakemake("--cores", "1", *settings(imagenet, other))
    assert run.returncode == 0, run.stderr
    assert content(other) == content(store)
    times = modified(other)
    again = snakemake(*settings(imagenet, other))
    assert again.returncode == 0, again.stderr
    assert "is ready: 3 classes, 73 images for training, 18 for validation" in again.stdout
    assert modified(other) == times


def test_damaged_shards_are_named_and_made_again_and_no_others(
    imagenet: Path, store: Path, tmp_path: Path
) -> None:
    hurt = tmp_path / "hurt.zarr"
    shutil.copytree(store, hurt)
    shards = sorted((hurt / "train/images/c").glob("*/0/0/0"))
    before = {path: path.stat().st_ino for path in shards}
    flipped, cut, gone = shards[1], shards[2], shards[3]
    with flipped.open("r+b") as file:
        file.seek(5 * (SIZE * SIZE * 3 + 4) + 1000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    cut.write_bytes(cut.read_bytes()[:-100])
    gone.unlink()
    (hurt / "val/labels/c/0").write_bytes(b"?")
    (hurt / "statistics/mean/c/0/0/0").unlink()

    found = stage("verify", "--store", hurt)
    assert found.returncode == 1
    name = np.load(hurt / ".preprocess/train.npy")["name"][16 + 5].decode()
    assert f"{flipped} has changed since it was written, in {name}" in found.stderr
    assert f"{cut} does not have the size in its record" in found.stderr
    assert f"{gone} is missing" in found.stderr

    mended = snakemake(*settings(imagenet, hurt))
    assert mended.returncode == 0, mended.stderr
    assert content(hurt) == content(store)
    assert {path for path in shards if path.stat().st_ino != before[path]} == {flipped, cut, gone}


def test_an_unreadable_image_is_an_error_after_all_other_shards_are_made(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet" / "train" / "cat"
    folder.mkdir(parents=True)
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(encode(draw(number, 60, 50)))
    (folder / "7.jpg").write_bytes(b"<html>")
    (folder / "8.jpg").write_bytes((folder / "8.jpg").read_bytes()[:400])
    store = tmp_path / "a.zarr"
    words = ("--image-size", SIZE, "--shard-length", 4, "--validation-fraction", 0.2)
    stage("index", "--store", store, "--imagenet", tmp_path / "imagenet", *words)
    run = stage("shard", "--store", store, "--workers", 2)
    assert run.returncode == 1
    assert "error: 2 of 40 images cannot be read" in run.stderr
    assert "train/cat/7.jpg (has no known image format: it begins with b'<html>')" in run.stderr
    assert "train/cat/8.jpg (" in run.stderr
    made = modified(store / "train/images/c") | modified(store / "val/images/c")
    assert len(made) in (8, 9)  # of 10, as the two may lie in one shard

    for number in (7, 8):
        (folder / f"{number}.jpg").write_bytes(encode(draw(number, 60, 50)))
    stage("index", "--store", store, "--imagenet", tmp_path / "imagenet", *words)
    again = stage("shard", "--store", store, "--workers", 2)
    assert f"10 shards with 40 images in {store}, {len(made)} of them made before" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_unreadable_images_are_left_out_when_asked_and_other_shards_stay(
    imagenet: Path, tmp_path: Path
) -> None:
    source, store = tmp_path / "imagenet", tmp_path / "a.zarr"
    shutil.copytree(imagenet, source)
    broken = [sorted((source / "train").glob("*/*"))[number] for number in (3, 40)]
    for path in broken:
        path.write_bytes(b"")
    stopped = snakemake(*settings(source, store))
    assert stopped.returncode != 0
    assert "error: 2 of 91 images cannot be read" in stopped.stderr
    made = modified(store / "train/images/c") | modified(store / "val/images/c")
    run = snakemake(*settings(source, store), "on_error=skip")
    assert run.returncode == 0, run.stderr
    assert "2 unreadable were left out" in run.stdout
    opened = open_store(store)
    assert (len(opened.train), len(opened.val)) == (71, 18)
    expected = sorted(
        (by_hand(path).tobytes(), CLASSES.index(path.parent.name))
        for path in (source / "train").glob("*/*")
        if path not in broken
    )
    images = opened.train.read(np.arange(71))
    found = zip((image.tobytes() for image in images), opened.train.labels.tolist(), strict=True)
    assert sorted(found) == expected
    root = zarr.open_group(store, mode="r")
    assert root["train"].attrs["skipped"] == {str(path.relative_to(source)): "is empty" for path in broken}
    kept = {path: time for path, time in made.items() if path.exists() and path.stat().st_mtime_ns == time}
    assert len(kept) >= len(made) - 1  # all but the last one, whose images fill the holes
    times = modified(store)
    assert snakemake(*settings(source, store), "on_error=skip").returncode == 0
    assert modified(store) == times
    at_once = make_store(
        source, tmp_path / "b.zarr", "--image-size", SIZE, "--shard-length", SHARD_LENGTH, skip=True
    )
    assert content(at_once) == content(store)


def test_a_store_with_other_settings_or_other_files_is_refused(
    imagenet: Path, store: Path, tmp_path: Path
) -> None:
    before = modified(store)
    for words, change in (
        (("--image-size", 256, "--shard-length", 16), f"image_size {SIZE}, not 256"),
        (("--image-size", SIZE, "--shard-length", 8), "shard_length 16, not 8"),
        (("--image-size", SIZE, "--shard-length", 16, "--draft"), "draft False, not True"),
    ):
        other = stage("index", "--store", store, "--imagenet", imagenet, *words)
        assert other.returncode == 1
        assert f"error: {store} was made with {change}: name another place" in other.stderr
    assert modified(store) == before
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    foreign = stage("index", "--store", full, "--imagenet", imagenet)
    assert f"error: {full} holds something else: name another place" in foreign.stderr


def test_a_missing_imagenet_is_one_sentence(tmp_path: Path) -> None:
    run = snakemake("--config", f"imagenet={tmp_path}/none", f"store={tmp_path}/a.zarr")
    assert run.returncode != 0
    assert f"error: there is no ImageNet at {tmp_path}/none: put the official tars" in run.stderr
    assert "Traceback" not in run.stderr


def test_images_smaller_than_the_networks_crop_are_refused(imagenet: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    run = snakemake("--config", f"imagenet={imagenet}", f"store={store}", "image_size=223")
    assert run.returncode != 0
    assert (
        "error: the setting image_size must be a whole number of pixels from 224, which the network crops"
        in run.stderr
    )
    assert "Traceback" not in run.stderr
    for size in (48, 223, 0, -1):  # the stage by itself does not pass the schema
        index = stage("index", "--store", store, "--imagenet", imagenet, f"--image-size={size}")
        assert index.returncode == 1
        sentence = f"error: image_size must be 224 to 4096 pixels, not {size}: the network crops 224x224"
        assert sentence in index.stderr
        assert "Traceback" not in index.stderr
    assert not (store / ".preprocess" / "plan.json").exists()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    run = snakemake("--config", f"store={tmp_path}/a.zarr", "shard_length=0")
    assert run.returncode != 0
    assert "error: the setting shard_length must be a whole number from 1 to 65,536, not 0" in run.stderr
