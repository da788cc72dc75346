"""Figure 1: reading CIFAR-10, the four-layer network, and the command."""

import io
import json
import re
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.in_process import command
from trainer.errors import UserError
from trainer.experiments import cifar, relu_tanh
from trainer.experiments.four_layer_net import FourLayerNet
from trainer.experiments.trial import PARTS, Trial

IMAGES = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(200) % 10
DATA = relu_tanh.data_settings(IMAGES, LABELS)


def binary(images, labels):
    """The binary version's records, by its own description: the label, then red, green and blue."""
    return b"".join(
        bytes([label]) + image[:, :, 0].tobytes() + image[:, :, 1].tobytes() + image[:, :, 2].tobytes()
        for image, label in zip(images, labels.tolist(), strict=True)
    )


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small CIFAR-10 as it is distributed: two files of training images and one of test images."""
    files = {
        "cifar-10-batches-bin/test_batch.bin": binary(IMAGES[:3], LABELS[:3]),
        "cifar-10-batches-bin/data_batch_2.bin": binary(IMAGES[120:], LABELS[120:]),
        "cifar-10-batches-bin/data_batch_1.bin": binary(IMAGES[:120], LABELS[:120]),
        "cifar-10-batches-bin/batches.meta.txt": b"airplane\n",
    }
    return write_tar(tmp_path_factory.mktemp("cifar") / "cifar-10-binary.tar.gz", files, "w:gz")


def test_the_binary_version_is_read_from_its_archive_without_the_test_set(archive):
    images, labels = cifar.read(archive)
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)


def test_images_in_class_folders_are_read_from_a_folder_and_a_tar(tmp_path):
    names = ["frog/1.png", "cat/1.png", "cat/2.png"]
    files = {f"train/{name}": png(image) for name, image in zip(names, IMAGES, strict=False)}
    files |= {"train/cat/._1.png": b"left by macOS", "train/.ipynb_checkpoints/1.png": png(IMAGES[3])}
    for name, data in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in (tmp_path / "folder", write_tar(tmp_path / "images.tar", files)):
        images, labels = cifar.read(path)
        assert np.array_equal(images, IMAGES[[1, 2, 0]])  # sorted by name, and so are the classes
        assert labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"cifar-10-batches-py/data_batch_1": b"\x80\x04."}, "a pickle, is not read"),
        ({"data_batch_1.bin": b"\x01" * 100}, "100 bytes, not N x 3073"),
        ({"data_batch_1.bin": b"\x0b" * 3073}, "a label of 11"),
        ({"train/cat/1.png": png(np.zeros((8, 8, 3), np.uint8))}, "is 8x8"),
        ({"train/cat/1.png": b"no image"}, "cannot be read as an image"),
        ({"readme": b"hello"}, "nothing found"),
    ],
    ids=["pickle", "length", "label", "size", "damaged", "something else"],
)
def test_other_files_are_a_clear_error(files, sentence, tmp_path):
    with pytest.raises(UserError, match=re.escape(sentence)):
        cifar.read(write_tar(tmp_path / "some.tar", files))


def test_the_network_has_four_layers_of_the_programs_size():
    net = FourLayerNet("relu", seed=0)
    # 32 x 5x5x3 + 32, 32 x 5x5x32 + 32, 64 x 5x5x32 + 64, 10 x 4x4x64 + 10
    assert sum(p.numel() for p in net.parameters()) == 2_432 + 25_632 + 51_264 + 10_250
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert net.conv1.weight.std().item() == pytest.approx(1e-4, rel=0.05)


def test_the_two_networks_differ_by_their_activation_alone():
    relu, tanh = FourLayerNet("relu", seed=3), FourLayerNet("tanh", seed=3)
    tanh.load_state_dict(relu.state_dict())
    x = torch.randn(4, 3, 32, 32) * 60
    mine = tanh(x)
    relu.activation = torch.tanh
    assert torch.equal(relu(x), mine)


def test_a_stopped_training_continues_to_the_same_weights(tmp_path):
    whole = Trial(tmp_path / "whole", "tanh", 0.001, seed=1, bfloat16=False, data=DATA)
    for _ in range(2):
        whole.train_epoch(IMAGES, LABELS)
    Trial(tmp_path / "parts", "tanh", 0.001, seed=1, bfloat16=False, data=DATA).train_epoch(IMAGES, LABELS)
    again = Trial(tmp_path / "parts", "tanh", 0.001, seed=1, bfloat16=False, data=DATA)
    assert again.epochs == 1
    again.train_epoch(IMAGES, LABELS)
    assert again.curve == whole.curve
    assert len(whole.curve) == 2 * PARTS
    for one, other in zip(whole.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_epochs_to_an_error_are_interpolated(tmp_path):
    trial = Trial(tmp_path, "relu", 0.001, seed=0, bfloat16=False, data=DATA)
    trial.curve = [(0.25, 0.5), (0.5, 0.3), (0.75, 0.2), (1.0, 0.26)]
    assert trial.epochs_to(0.25) == pytest.approx(0.625)
    assert trial.epochs_to(0.1) is None
    assert trial.error_after(1) == 0.26


def test_the_conclusion_compares_at_an_error_that_both_have_reached():
    relu = {"rate": 0.002, "epochs": 6.0, "curve": [(2, 0.4), (6, 0.25)]}
    tanh = {"rate": 0.008, "epochs": None, "curve": [(10, 0.4), (20, 0.35)]}
    lines = relu_tanh.conclusion({"relu": relu, "tanh": tanh}, 0.25)
    # ReLU is at 0.35 a third of the way from 2 to 6 epochs: 20 / 3.333 = 6.0
    assert lines[-1] == "to 35.0 % ReLU is 6.0 times faster"
    assert lines[1] == "tanh, learning rate 0.008: not at 25 % after 20 epochs (paper: about 36)"
    tanh |= {"epochs": 36.0, "curve": [(36, 0.25)]}
    assert relu_tanh.conclusion({"relu": relu, "tanh": tanh}, 0.25)[-1].startswith("to 25.0 % ReLU is 6.0")


def test_the_command_draws_both_curves_and_continues(archive, tmp_path):
    words = ("experiments", "relu-vs-tanh", "--data", archive, "--out", "out")
    rates = ("--relu-rates", "0.001", "--tanh-rates", "0.001", "0.002", "--max-epochs", "1")
    done = command(*words, *rates, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "relu, learning rate 0.001: not at 25 % after 1 epochs (paper: about 6)" in done.stdout
    found = json.loads((tmp_path / "out" / "tanh.json").read_text())
    assert (len(found["curve"]), found["settings"]["the number of images"]) == (PARTS, 200)
    svg = (tmp_path / "out" / "figure1.svg").read_text()
    assert svg.count("<path") > 10
    assert Image.open(tmp_path / "out" / "figure1.png").width == 1400
    again = command(*words, *rates, cwd=tmp_path)
    assert "epoch 1," not in again.stdout  # all is trained


OTHER_SETTINGS = {
    "seed": ({"seed": 2}, "--seed was 1, now 2"),
    "precision": ({"bfloat16": True}, "--precision was float32, now bfloat16"),
    "activation": ({"activation": "relu"}, "the activation was tanh, now relu"),
    # A folder's name has the learning rate in six digits.
    "learning rate": ({"lr": 0.0010000001}, "the rate was 0.001, now 0.0010000001"),
    "count": (
        {"data": relu_tanh.data_settings(IMAGES[:100], LABELS[:100])},
        "the number of images was 200, now 100",
    ),
    "images": (
        {"data": relu_tanh.data_settings(IMAGES[::-1], LABELS)},
        "the images' SHA-256 was [0-9a-f]{16}, now",
    ),
    "labels": (
        {"data": relu_tanh.data_settings(IMAGES, LABELS[::-1])},
        "the images' SHA-256 was [0-9a-f]{16}, now",
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    Trial(folder, "tanh", 0.001, seed=1, bfloat16=False, data=DATA).train_epoch(IMAGES, LABELS)
    return folder


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_curve_made_with_other_settings_is_not_continued(name, trained):
    change, sentence = OTHER_SETTINGS[name]
    same = {"folder": trained, "activation": "tanh", "lr": 0.001, "seed": 1, "bfloat16": False, "data": DATA}
    assert Trial(**same).epochs == 1
    with pytest.raises(
        UserError, match=f"{trained} was made with other settings: .*{sentence}.*another --out"
    ):
        Trial(**same | change)


def test_a_curve_without_its_settings_or_weights_is_a_clear_error(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "damaged")
    (tmp_path / "damaged" / "epoch-001.safetensors").write_bytes(b"")
    for content, why in (
        ("[[0.25, 0.9]]", "is not an object"),  # how earlier versions wrote it
        ("{", "is not JSON"),
        ('{"curve": []}', "has no settings"),
        ('{"settings": {}, "curve": [["a", 1]]}', "has curve = "),
    ):
        (tmp_path / "curve.json").write_text(content)
        with pytest.raises(UserError, match=rf"its curve.json {why}.*Name another --out, or remove"):
            Trial(tmp_path, "tanh", 0.001, seed=1, bfloat16=False, data=DATA)
    with pytest.raises(UserError, match=r"damaged cannot be continued: .* Name another --out"):
        Trial(tmp_path / "damaged", "tanh", 0.001, seed=1, bfloat16=False, data=DATA)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--seed", "1"), "--seed was 0, now 1"),
        (("--images", "100"), "the number of images was 200, now 100"),
        (("--precision", "float32"), "--precision was bfloat16, now float32"),
        (("--target", "0.3", "--activations", "tanh"), "--target was 0.25, now 0.3"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_the_other_activations_curve_is_drawn_only_with_the_same_settings(
    flags, sentence, archive, both_curves
):
    words = ("experiments", "relu-vs-tanh", "--data", archive, "--out", "out")
    rates = ("--relu-rates", "0.001", "--tanh-rates", "0.001", "--max-epochs", "1", "--precision", "bfloat16")
    before = (both_curves / "out" / "figure1.svg").read_bytes()
    for which in ("tanh", "relu"):  # each alone: the other one's curve is read from its JSON
        done = command(*words, *rates, "--activations", which, *flags, cwd=both_curves)
        assert done.returncode == 1, done.stdout
        assert f"out/{which}-0.001 was made with other settings: {sentence}" in done.stderr or (
            f".json was made with other settings: {sentence}" in done.stderr
        )
        assert "Name another --out, or remove out/" in done.stderr
        assert "Traceback" not in done.stderr
    assert (both_curves / "out" / "figure1.svg").read_bytes() == before


@pytest.fixture(scope="module")
def both_curves(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    words = ("experiments", "relu-vs-tanh", "--data", archive, "--out", "out")
    rates = ("--relu-rates", "0.001", "--tanh-rates", "0.001", "--max-epochs", "1", "--precision", "bfloat16")
    done = command(*words, *rates, cwd=folder)
    assert done.returncode == 0, done.stderr
    # A later command for one of the two reads the other's curve.
    again = command(*words, *rates, "--activations", "relu", cwd=folder)
    assert "tanh, learning rate 0.001" in again.stdout, again.stderr
    return folder


def test_without_the_data_the_error_has_their_address(tmp_path):
    done = command("experiments", "relu-vs-tanh", cwd=tmp_path)
    assert done.returncode == 1
    assert "cifar-10-binary.tar.gz" in done.stderr
    assert "Traceback" not in done.stderr
