"""Evaluation on sets without a training part, such as ImageNet-V2 and ImageNet-A, by the commands."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.store import open_store
from tests.launch import ROOT, run
from tests.preprocess.helpers import make_store
from trainer import load


@pytest.fixture(scope="module")
def probabilities(tiny_store, small_run):
    """Of the tiny store's validation images, float32 [N, K], with ten crops; and their labels."""
    val = open_store(tiny_store).val
    images = val.read(np.arange(len(val)))
    return load(small_run).probabilities(images, ten_crop=True), val.labels, images


def folders(root: Path, images, names) -> Path:
    """Class folders of PNGs, whose pixels the store keeps as they are."""
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / name / f"{number}.png")
    return root


def evaluate(run_folder, imagenet, tmp_path, *flags):
    """Make a store of the set, and evaluate the run on it; returns the figures and what was printed."""
    words = ("--split", "val", "--classes", run_folder)
    store = make_store(imagenet, tmp_path / "set.zarr", *words)
    command = ("python", "-m", "trainer.evaluate", "--run", run_folder, "--store", store, "--ten-crop")
    done = run(*map(str, command), *flags, "--json", str(tmp_path / "found.json"), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path / "found.json").read_text()), done.stdout


def errors(p_NK, labels_N):
    """Top-1 and top-5 error."""
    rank_N = (p_NK > p_NK[np.arange(len(labels_N)), labels_N][:, None]).sum(1)
    return (rank_N >= 1).mean(), (rank_N >= 5).mean()


def test_a_set_in_numbered_folders_gives_the_errors_of_the_same_images(probabilities, small_run, tmp_path):
    p_NK, labels_N, images = probabilities
    found, printed = evaluate(small_run, folders(tmp_path / "set", images, labels_N.astype(str)), tmp_path)
    assert (found["top1_error"], found["top5_error"]) == pytest.approx(errors(p_NK, labels_N))
    assert (found["images"], found["classes"], found["network_classes"]) == (len(labels_N), 10, 10)
    assert "the network's own mean image is subtracted" in printed


def test_of_some_classes_the_guesses_are_the_networks_or_these_classes_alone(
    probabilities, small_run, tiny_store, tmp_path
):
    p_NK, labels_N, images = probabilities
    wnids = open_store(tiny_store).classes

    def restricted_errors(held):
        some = np.isin(labels_N, held)
        return errors(p_NK[some][:, held], np.searchsorted(held, labels_N[some]))

    # of the small network's classes, such that the restriction makes a difference
    held = next(
        list(held)
        for held in combinations(range(10), 6)
        if restricted_errors(held) != errors(*(part[np.isin(labels_N, held)] for part in (p_NK, labels_N)))
    )
    some = np.isin(labels_N, held)
    names = [wnids[label] for label in labels_N[some]]
    imagenet = folders(tmp_path / "set", images[some], names)
    found, printed = evaluate(small_run, imagenet, tmp_path)
    assert (found["top1_error"], found["top5_error"]) == pytest.approx(errors(p_NK[some], labels_N[some]))
    assert "The images are of 6 of the network's 10 classes." in printed
    restricted, _ = evaluate(small_run, imagenet, tmp_path, "--held-classes")
    assert (found["held_classes"], restricted["held_classes"]) == (False, True)
    assert (restricted["top1_error"], restricted["top5_error"]) == pytest.approx(restricted_errors(held))
