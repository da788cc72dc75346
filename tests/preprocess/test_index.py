import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from preprocess.sources.order import at_most_per_class, shuffled, split_off_validation, whole_groups
from preprocess.sources.tables import Row, table
from tests.preprocess.helpers import stage


def images(*per_class: int) -> np.ndarray:
    """A table with so many images of each class, mixed."""
    rows = (Row(f"{c}/{i:04d}", -1, 0, 1, c) for c, count in enumerate(per_class) for i in range(count))
    return np.random.default_rng(0).permutation(table(rows))


@pytest.mark.parametrize(
    ("per_class", "fraction"), [((40, 55, 3, 70), 0.1), ((7, 7), 0.5), ((1000, 1), 0.03)]
)
def test_every_class_gives_its_share_for_validation_and_nothing_is_lost(
    per_class: tuple[int, ...], fraction: float
) -> None:
    all_of_it = images(*per_class)
    train, val = split_off_validation(all_of_it, fraction, np.random.default_rng(1))
    assert len(val) == round(fraction * len(all_of_it))
    assert sorted(np.concatenate([train, val])["name"]) == sorted(all_of_it["name"])
    for label, count in enumerate(per_class):
        assert abs((val["label"] == label).sum() - fraction * count) < 1


def test_classes_of_one_image_still_give_a_validation_part() -> None:
    train, val = split_off_validation(images(*[1] * 50), 0.1, np.random.default_rng(1))
    assert (len(train), len(val)) == (45, 5)


def test_a_limit_takes_the_first_of_each_class_in_the_order_given() -> None:
    chosen = at_most_per_class(images(5, 2, 9), 4)
    assert np.bincount(chosen["label"]).tolist() == [4, 2, 4]
    every = images(5, 2, 9)
    assert chosen[chosen["label"] == 2].tolist() == every[every["label"] == 2][:4].tolist()


def test_the_summary_counts_hidden_entries_apart_from_ignored_ones(tmp_path: Path) -> None:
    imagenet = tmp_path / "imagenet"
    hidden = ["train/cat/._1.jpg", "train/Thumbs.db", ".DS_Store"]
    for name in [*(f"train/cat/{n}.jpg" for n in range(10)), "docs/1.jpg", "test/1.jpg", *hidden]:
        (imagenet / name).parent.mkdir(parents=True, exist_ok=True)
        (imagenet / name).write_bytes(b"a")
    done = stage("index", "--imagenet", imagenet, "--store", tmp_path / "a.zarr")
    assert done.stdout.endswith(
        "; 1 classes, 9 images for training, 1 for validation (taken from train); images are turned as their "
        "EXIF data say; 2 entries were ignored: docs/ (neither train/ nor val/), test/ "
        "(a test part is not used); hidden entries left aside: 3\n"
    )
    shutil.rmtree(imagenet / "docs")
    for name in hidden:
        (imagenet / name).unlink()
    for name in ("a.svg", "b.AVIF", "c.svg"):
        (imagenet / "train/cat" / name).write_bytes(b"a")
    done = stage("index", "--imagenet", imagenet, "--store", tmp_path / "a.zarr")
    assert done.stdout.endswith(
        "; 4 entries were ignored: train/cat/a.svg (SVG, which cannot be read), train/cat/b.AVIF (AVIF, "
        "which cannot be read), train/cat/c.svg (SVG, which cannot be read), ...; "
        "files in formats that cannot be read: 1 AVIF, 2 SVG; convert them to JPEG or PNG\n"
    )


def grouped(*sizes: int) -> np.ndarray:
    """A table of images in groups of these sizes."""
    return table(
        Row(f"{group}/{row:04d}", 0, 1000 * group + row, 1, 0, group)
        for group, size in enumerate(sizes)
        for row in range(size)
    )


def test_groups_are_shuffled_with_their_images_in_order_and_unusual_ones_at_the_end() -> None:
    rows = shuffled(grouped(*[4] * 20, 3, 4, 7), np.random.default_rng(0))
    order = [group for group, _ in itertools.groupby(rows["group"].tolist())]
    assert sorted(order) == list(range(23))  # each one in one piece
    assert set(order[-2:]) == {20, 22}
    assert order[:-2] != sorted(order[:-2])
    for group in range(23):
        assert (np.diff(rows["offset"][rows["group"] == group]) == 1).all()


@pytest.mark.parametrize(
    ("sizes", "setting", "length"),
    [
        ([100] * 9 + [58], 1024, 1000),
        ([100] * 9 + [58], 1000, 1000),
        ([100] * 9 + [58], 99, 99),  # groups larger than a shard
        ([91, 87, 90, 90, 92, 89, 93], 1024, 1024),  # some images of each were taken for validation
        ([5000] * 3, 1024, 1024),
    ],
)
def test_shards_hold_whole_groups_where_most_images_are_in_groups_of_one_size(
    sizes: list[int], setting: int, length: int
) -> None:
    assert whole_groups(grouped(*sizes), setting) == length


def test_images_that_are_read_singly_leave_the_shard_length_as_it_is() -> None:
    assert whole_groups(images(500, 524), 1000) == 1000
