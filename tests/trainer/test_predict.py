"""Predictions for files are those for the store's images."""

import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.launch import ROOT, run
from tests.preprocess.helpers import draw
from tests.trainer.in_process import command
from trainer.commands import predict
from trainer.data.batches import open_data
from trainer.evaluation.pretrained import load
from trainer.interchange.write import write_weights


@pytest.fixture(scope="module")
def files(tiny_store, tmp_path_factory):
    """A folder with the first validation JPEGs and a text file."""
    folder = tmp_path_factory.mktemp("images")
    with tarfile.open(tiny_store.parent / "imagenet" / "ILSVRC2012_img_val.tar") as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name)[:3]:
            file = tar.extractfile(member)
            assert file is not None
            (folder / member.name).write_bytes(file.read())
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "alexnet.safetensors"
    write_weights(load(small_run, device="cpu"), path)
    return path


def test_an_exported_file_predicts_without_mpi_and_store(files, exported, small_run, tiny_store, tmp_path):
    script = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from trainer.predict import main\n"
        f"main([{str(files)!r}, '--model', {str(exported)!r}, '--format', 'json', '--ten-crop',"
        f" '--annotate', {str(tmp_path / 'annotated')!r}])"
    )
    done = run("python", "-c", script, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    paths = sorted(files.glob("*.JPEG"))
    assert [answer["picture"] for answer in answers] == [str(path) for path in paths]

    # The store has the same images in another order: each file's probabilities must be among them.
    network = load(small_run, device="cpu")
    val = open_data(tiny_store).val
    expected = network.probabilities(val.read(np.arange(len(val))), ten_crop=True)
    for answer in answers:
        p = [guess["probability"] for guess in answer["predictions"]]
        assert len(p) == 5
        assert p == sorted(p, reverse=True)
        indices = [network.classes.index(guess["class"]) for guess in answer["predictions"]]
        assert np.abs(expected[:, indices] - p).max(1).min() < 1e-6
        assert [guess["name"] for guess in answer["predictions"]] == [network.name(i) for i in indices]
    assert len(list((tmp_path / "annotated").glob("*.png"))) == 3


def test_a_run_gives_a_table_and_an_error_for_each_unreadable_file(files, small_run, tmp_path, monkeypatch):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    first = sorted(files.glob("*.JPEG"))[0]
    monkeypatch.setenv("COLUMNS", "200")
    done = command("predict", broken, first, "--model", small_run, "--top", "3", cwd=ROOT)
    assert done.returncode == 1
    assert f"error: {broken} has no known image format" in done.stderr
    assert first.name in done.stdout
    assert done.stdout.count("0.") == 3


def test_an_image_is_preprocessed_as_for_the_store(files, exported):
    network = load(exported, device="cpu")
    buffer = io.BytesIO()
    Image.new("L", (300, 400), 90).save(buffer, "PNG")
    grey = files.parent / "grey.jpg"
    grey.write_bytes(buffer.getvalue())
    (prediction,) = predict.predictions(network, [grey], ten_crop=False)
    assert prediction.repairs == ("PNG in a .jpg", "greyscale")
    assert prediction.image_SS3 is not None
    assert (prediction.image_SS3 == 90).all()


def test_a_photograph_is_turned_as_for_the_store(exported, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = draw(5, 300, 240)
    photograph.save(tmp_path / "sideways.png", exif=exif)
    photograph.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    photograph.save(tmp_path / "as stored.png")
    network = load(exported, device="cpu")
    names = ("sideways.png", "upright.png", "as stored.png")
    for upright, alike in ((True, 1), (False, 2)):
        seen = dataclasses.replace(network, upright=upright)
        found = list(predict.predictions(seen, [tmp_path / name for name in names], ten_crop=False))
        np.testing.assert_array_equal(found[0].p_K, found[alike].p_K)
        assert not np.array_equal(found[0].p_K, found[3 - alike].p_K)


def test_equal_probabilities_come_in_the_classes_order():
    assert predict.best(np.array([0.2, 0.3, 0.2, 0.3], np.float32), 3) == [1, 3, 0]


def test_a_network_whose_outputs_are_not_finite_is_one_sentence(files, exported, tmp_path):
    """Finite weights can overflow."""
    damaged = tmp_path / "alexnet.safetensors"
    with safetensors.safe_open(exported, "pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for dtype, value, sentence, reason in (
        (torch.float32, 3e38, "has outputs that are not finite numbers", "its weights are damaged"),
        (torch.int8, 3, "was not written by", "fc7.weight is of int8, and weights must be of float32"),
        (torch.complex64, 3, "was not written by", "fc7.weight is of complex64, and weights"),
    ):
        changed = tensors | {"fc7.weight": torch.full_like(tensors["fc7.weight"], value, dtype=dtype)}
        safetensors.torch.save_file(changed, damaged, about)
        done = command("predict", files, "--model", damaged, "--format", "json", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(f"error: {damaged} {sentence}")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
