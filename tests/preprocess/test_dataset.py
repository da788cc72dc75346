"""A split is a dataset for anybody's own DataLoader, and the store is zarr v3 for any program."""

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from torch.utils.data import DataLoader

from preprocess.store import Split, open_store

DIMENSIONS = {
    "train/images": ("image", "row", "column", "channel"),
    "train/labels": ("image",),
    "val/images": ("image", "row", "column", "channel"),
    "val/labels": ("image",),
    "statistics/mean": ("row", "column", "channel"),
    "statistics/covariance": ("channel", "other_channel"),
    "statistics/eigenvalues": ("component",),
    "statistics/eigenvectors": ("channel", "component"),
}


@pytest.fixture(scope="module")
def split(store: Path) -> Split:
    return open_store(str(store)).val


@pytest.fixture(scope="module")
def expected(store: Path) -> tuple[np.ndarray, list[int]]:
    """Images and labels as zarr reads them."""
    group = zarr.open_group(store, mode="r")["val"]
    return group["images"][:], group["labels"][:].tolist()


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda i: np.array(i, np.uint16),
        lambda i: [np.int32(n) for n in i],
    ],
    ids=["list", "tuple", "array", "tensor", "uint16", "NumPy's integers"],
)
def test_indices_of_any_kind_are_read(make, split, expected):
    indices = [3, 0, 17, 3]
    np.testing.assert_array_equal(split.read(make(indices)), expected[0][indices])
    into = np.empty((4, *split.shape[1:]), np.uint8)
    split.read_into(make(indices), into)
    np.testing.assert_array_equal(into, expected[0][indices])


def test_no_indices_are_no_images(split):
    assert split.read([]).shape == (0, *split.shape[1:])


@pytest.mark.parametrize("indices", [[0.0, 1.0], [True, False], [[0, 1]], 3, ["0"]])
def test_indices_that_are_no_row_of_whole_numbers_are_refused(indices, split):
    with pytest.raises(TypeError, match="indices must be whole numbers in one dimension, not "):
        split.read(indices)


@pytest.mark.parametrize("index", [5, np.int64(5), torch.tensor(5)])
def test_an_index_gives_an_image_and_its_label(index, split, expected):
    image, label = split[index]
    np.testing.assert_array_equal(image, expected[0][5])
    assert image.dtype == np.uint8
    assert (label, type(label)) == (expected[1][5], int)


@pytest.mark.parametrize("index", [-1, 18, torch.tensor(-18)])
def test_an_index_outside_of_the_split_is_an_index_error(index, split):
    with pytest.raises(IndexError, match="has images 0 to 17, not"):
        split[index]


@pytest.mark.parametrize("index", [1.0, "1", slice(0, 2), [0, 1]])
def test_an_index_that_is_no_whole_number_is_refused(index, split):
    with pytest.raises(TypeError):
        split[index]


def test_iteration_gives_every_image_once_and_ends(split, expected):
    images, labels = zip(*split, strict=True)
    np.testing.assert_array_equal(np.stack(images), expected[0])
    assert list(labels) == expected[1]


def test_a_split_is_pickled_by_its_path_from_any_folder(store, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(store.parent)
    split = open_store(store.name).val
    split.read([0])  # a file is open
    data = pickle.dumps(split)
    assert len(data) < 3000  # an image alone has 150,528 bytes
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(pickle.loads(data).read([4, 2]), expected[0][[4, 2]])


def test_a_pickled_store_keeps_what_was_replaced_in_it(store):
    opened = open_store(store)
    labels = np.zeros(len(opened.val), np.int16)
    changed = dataclasses.replace(opened, val=dataclasses.replace(opened.val, labels=labels))
    again = pickle.loads(pickle.dumps(changed))
    np.testing.assert_array_equal(again.val.labels, labels)
    np.testing.assert_array_equal(again.train.labels, opened.train.labels)
    np.testing.assert_array_equal(again.mean, opened.mean)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_data_loader_of_several_processes_reads_it(start, split, expected):
    split.read([0])  # before the processes start
    loader = DataLoader(split, batch_size=5, num_workers=2, multiprocessing_context=start)
    images, labels = zip(*loader, strict=True)
    assert [len(batch) for batch in images] == [5, 5, 5, 3]
    np.testing.assert_array_equal(torch.cat(images), expected[0])
    assert torch.cat(labels).tolist() == expected[1]


def test_every_array_names_its_dimensions(store):
    group = zarr.open_group(store, mode="r")
    found = {}
    for folder in ("train", "val", "statistics"):
        for name, array in group[folder].arrays():
            found[f"{folder}/{name}"] = array.metadata.dimension_names
    assert found == DIMENSIONS


def test_a_store_without_names_of_dimensions_opens_and_is_the_same(store, tmp_path):
    old = shutil.copytree(store, tmp_path / "old.zarr", copy_function=os.link)
    for name in DIMENSIONS:
        path = old / name / "zarr.json"
        metadata = json.loads(path.read_text())
        metadata.pop("dimension_names")
        path.unlink()  # a link to the other store's
        path.write_text(json.dumps(metadata))
    before, after = open_store(old), open_store(store)
    assert before.fingerprint == after.fingerprint
    np.testing.assert_array_equal(before.val.read([0, 17]), after.val.read([0, 17]))
    np.testing.assert_array_equal(before.mean, after.mean)
