"""Exported files compute what the towers compute, need torch alone, and are imported bit for bit."""

import dataclasses
import json
import re
import shutil
import zipfile

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch
import yaml
from PIL import Image

from tests.launch import ROOT, run
from tests.trainer.in_process import command
from trainer.config import AugmentConfig, NetworkConfig
from trainer.data import augmentation
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.interchange import model_card, to_towers, weights_file
from trainer.interchange.write import write_all, write_weights
from trainer.model import standalone
from trainer.model.grouped import merge, split
from trainer.model.initial_weights import build_tower
from trainer.model.network import TwoTowerAlexNet
from trainer.recipes import PAPER
from trainer.runs.log import read_log

NARROW = {"filters": (6, 8, 12, 12, 8), "hidden": 32, "init": "scaled"}


@pytest.fixture(scope="module")
def folder(small_run, tmp_path_factory):
    target = tmp_path_factory.mktemp("exported")
    done = command("export", small_run, "--to", target, "--pt2", "--license", "cc-by-4.0", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def of_crops(network, tmp_path_factory):
    """An ONNX file and a torch.export program of crops."""
    target = tmp_path_factory.mktemp("crops")
    write_all(network, target, pt2=True, kind="crops")
    return target


@pytest.fixture(scope="module")
def network(small_run):
    return load(small_run, device="cpu")


@pytest.fixture(scope="module")
def images(tiny_store):
    return open_data(tiny_store).val.read(np.arange(5))


def close(found, expected):
    """Within 1e-5 of the largest: sums in another order."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_shapes_are_those_of_the_grouped_network_on_one_device(folder):
    shapes = {n: t.shape for n, t in safetensors.numpy.load_file(folder / "alexnet.safetensors").items()}
    assert shapes == {
        "conv1.weight": (12, 3, 11, 11),
        "conv2.weight": (16, 6, 5, 5),  # two groups
        "conv3.weight": (24, 16, 3, 3),
        "conv4.weight": (24, 12, 3, 3),
        "conv5.weight": (16, 12, 3, 3),
        "fc6.weight": (64, 16 * 6 * 6),
        "fc7.weight": (64, 64),
        "fc8.weight": (10, 64),
        **{f"conv{i}.bias": (n,) for i, n in enumerate((12, 16, 24, 24, 16), 1)},
        **{"fc6.bias": (64,), "fc7.bias": (64,), "fc8.bias": (10,), "mean_image": (256, 256, 3)},
    }


def test_the_module_needs_torch_alone(folder, network, images, tmp_path):
    images.tofile(tmp_path / "images")
    blocked = ("trainer", "preprocess", "safetensors", "mpi4py", "numba", "PIL")
    script = f"""
import json, pathlib, sys
for name in {blocked}: sys.modules[name] = None
import torch
from alexnet import AlexNet
data = bytearray(pathlib.Path({str(tmp_path / "images")!r}).read_bytes())
images = torch.frombuffer(data, dtype=torch.uint8).view(5, 256, 256, 3)
network = AlexNet.load("alexnet.safetensors")
found = [network.probabilities(images, ten_crop).tolist() for ten_crop in (False, True)]
print(json.dumps([network.classes, *found]))
"""
    done = run("python", "-c", script, cwd=folder, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    classes, center, ten = json.loads(done.stdout)
    assert tuple(classes) == network.class_names
    close(center, network.probabilities(images))
    close(ten, network.probabilities(images, ten_crop=True))


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", ["pictures", "crops"])
def test_onnx_gives_the_towers_logits_for_any_number_of_images(
    kind, count, folder, of_crops, network, images
):
    path = {"pictures": folder, "crops": of_crops}[kind] / "alexnet.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {"pictures": images[:count], "crops": centre(images[:count], network)}
    (found,) = session.run(None, {kind: given[kind]})
    close(found, network.logits(network.inputs(images[:count], (16, 16, False))))
    names = session.get_modelmeta().custom_metadata_map["classes"]
    assert tuple(json.loads(names)) == network.class_names


def centre(images, network):
    """The input of a network of 224 pixels, by NumPy."""
    x = (images.astype(np.float32) - network.mean_SS3) / np.float32(network.config.augment.divisor)
    return x[:, 16:240, 16:240].transpose(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ["pictures", "crops"])
def test_the_program_needs_torch_alone_and_gives_the_towers_logits(
    kind, folder, of_crops, network, images, tmp_path
):
    given = {"pictures": images, "crops": centre(images, network)}[kind]
    np.save(tmp_path / "x.npy", given)
    script = f"""
import json, sys
for name in ("trainer", "preprocess", "alexnet"): sys.modules[name] = None
import numpy, torch
files = {{"classes.json": ""}}
module = torch.export.load("alexnet.pt2", extra_files=files).module()
x = torch.from_numpy(numpy.load({str(tmp_path / "x.npy")!r}))
print(json.dumps([json.loads(files["classes.json"]), module(x).tolist(), module(x[:1]).tolist()]))
"""
    done = run("python", "-c", script, cwd={"pictures": folder, "crops": of_crops}[kind], PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    classes, all_five, one = json.loads(done.stdout)
    assert tuple(classes) == network.class_names
    expected = network.logits(network.inputs(images, (16, 16, False)))
    close(all_five, expected)
    close(one, expected[:1])


def test_no_written_file_has_a_path_of_this_machine(folder, small_run):
    written = {n: (folder / n).read_bytes() for n in ("alexnet.onnx", "alexnet.safetensors", "README.md")}
    with zipfile.ZipFile(folder / "alexnet.pt2") as archive:
        written |= {name: archive.read(name) for name in archive.namelist()}
    for file, content in written.items():
        for place in (small_run.parent.parent, ROOT, torch.__path__[0]):
            assert str(place).encode() not in content, file


SWITCHES = {
    "two towers": (NetworkConfig(**NARROW), AugmentConfig()),
    "one tower": (NetworkConfig(**NARROW, towers=1), AugmentConfig()),
    "dense": (NetworkConfig(**NARROW, dense=True), AugmentConfig()),
    "the program": (
        NetworkConfig(**NARROW, conv1_order="lrn-pool-relu", conv2_spatial_norm=True, lrn_alpha=0.1),
        AugmentConfig(mean_window="center", train_divisor=1.1),
    ),
    "the textbooks": (
        NetworkConfig(**NARROW, conv1_order="lrn-relu-pool", activation="tanh", lrn_size=3, lrn_alpha=0.1),
        AugmentConfig(divisor=60.0),
    ),
    "Caffe's": (
        NetworkConfig(
            **NARROW, lrn_over="both", lrn_k=1.0, lrn_alpha=0.1, conv1_pad=0, inverted_dropout=True
        ),
        AugmentConfig(crop_size=227),
    ),
    "CaffeNet": (
        NetworkConfig(
            **NARROW,
            lrn_over="both",
            lrn_alpha=0.1,
            conv1_pad=0,
            conv1_order="relu-pool-lrn",
            conv2_order="relu-pool-lrn",
        ),
        AugmentConfig(crop_size=227),
    ),
    "54 pixels": (NetworkConfig(**NARROW, lrn_alpha=0.1, conv1_pad=0), AugmentConfig()),
    "54, 26 and 12 pixels": (
        NetworkConfig(**NARROW, lrn_alpha=0.1, conv1_pad=0, pool_rounding="down"),
        AugmentConfig(),
    ),
    "without": (NetworkConfig(**NARROW, lrn=False, dropout=0.0, overlap=False), AugmentConfig()),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_reaches_the_module(name, images, tmp_path):
    settings, augment = SWITCHES[name]
    towers = TwoTowerAlexNet(settings, 7)
    for tower in towers.towers:
        tower.load_state_dict(build_tower(settings, 7, tower.name, seed=3).state_dict())
    network = PretrainedNetwork(
        config=dataclasses.replace(PAPER, network=settings, augment=augment),
        source=tmp_path,
        run=None,
        state={},
        classes=tuple("abcdefg"),
        class_names=None,
        mean_SS3=np.random.default_rng(1).uniform(60, 180, (256, 256, 3)).astype(np.float32),
        network=towers.eval().requires_grad_(False),
    )
    write_weights(network, tmp_path / "w.safetensors")
    module = standalone.AlexNet.load(tmp_path / "w.safetensors")
    for view in augmentation.ten_crops(256, augment.crop_size)[
        3:6
    ]:  # bottom right, the centre, top left flipped
        inputs = network.inputs(images[:2], view)
        close(module.inputs(torch.from_numpy(images[:2]), view), inputs)
        close(module(inputs), network.logits(inputs))
    again = load(tmp_path / "w.safetensors", device="cpu")
    for old, new in zip(network.towers, again.towers, strict=True):
        for key, tensor in old.state_dict().items():
            assert torch.equal(new.state_dict()[key], tensor), key


def test_there_and_back_is_bit_for_bit(folder, small_run, tiny_store, tmp_path):
    target = tmp_path / "runs" / "back"
    source = folder / "alexnet.safetensors"
    importing = ("import_weights", source, "--run", target, "--store", tiny_store)
    done = command(*importing, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    old, new = (load(folder, device="cpu") for folder in (small_run, target))
    for before, after in zip(old.towers, new.towers, strict=True):
        for key, tensor in before.state_dict().items():
            assert torch.equal(after.state_dict()[key], tensor), key
    # What came back can be evaluated by the training side's own command, and gives the same errors.
    done = command("evaluate", "--run", target, "--json", tmp_path / "e.json", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    best = [line for line in read_log(small_run / "metrics.jsonl") if "val_top1_error" in line]
    best = min(best, key=lambda line: line["val_top1_error"])
    assert json.loads((tmp_path / "e.json").read_text())["top1_error"] == best["val_top1_error"]
    # A second import does not write over the first.
    again = command(*importing, cwd=ROOT)
    assert again.returncode == 1
    assert "is a run already" in again.stderr


def random_weights(dense=False):
    """A grouped network in Caffe's old shapes: biases 1 x 1 x 1 x N."""
    draw = np.random.default_rng(5)
    own = 2 if dense else 1
    shapes = {
        "conv1": (12, 3, 11, 11),
        "conv2": (16, 6 * own, 5, 5),
        "conv3": (24, 16, 3, 3),
        "conv4": (24, 12 * own, 3, 3),
        "conv5": (16, 12 * own, 3, 3),
        "fc6": (64, 576),
        "fc7": (64, 64),
        "fc8": (10, 64),
    }
    weights = {f"{layer}.weight": draw.standard_normal(shape) for layer, shape in shapes.items()}
    return weights | {f"{layer}.bias": draw.standard_normal((1, 1, 1, s[0])) for layer, s in shapes.items()}


@pytest.mark.parametrize("dense", [False, True])
def test_caffes_halves_become_towers(dense, tmp_path):
    arrays = random_weights(dense)
    np.savez(tmp_path / "caffe.npz", **arrays)
    weights, about, _ = weights_file.read(tmp_path / "caffe.npz")
    network = to_towers.with_widths_of(NetworkConfig(), weights)
    assert about is None
    assert (network.filters, network.hidden, network.dense) == ((6, 8, 12, 12, 8), 32, dense)
    config = dataclasses.replace(PAPER, network=network)
    a, b = to_towers.build_towers(config, weights, classes=10)
    expected = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.testing.assert_array_equal(b.conv2.weight.detach(), expected["conv2.weight"][8:])
    np.testing.assert_array_equal(b.fc7.bias.detach(), expected["fc7.bias"][0, 0, 0, 32:])
    np.testing.assert_array_equal(a.fc8.weight.detach(), expected["fc8.weight"][:, :32])
    np.testing.assert_array_equal(a.fc8.bias.detach(), expected["fc8.bias"].ravel())
    assert b.fc8.bias is None


def test_blue_green_red_becomes_red_green_blue():
    weight = torch.arange(6.0).view(2, 3, 1, 1)
    assert to_towers.reverse_channels(weight)[:, :, 0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]


def test_merge_undoes_split():
    arrays = random_weights()
    weights = {name: torch.from_numpy(array.squeeze()) for name, array in arrays.items()}
    assert weights["fc7.bias"].shape == (64,)
    merged = merge(split(weights, 2))
    assert merged.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(merged[name], tensor), name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("fc7.bias"), r"missing: \['fc7\.bias'\]"),
        (lambda w: w.update(conv6=np.zeros(1)), r"unknown: \['conv6'\]"),
        (
            lambda w: w.update({"conv1.bias": np.array([object()])}),
            "an .npz of plain arrays, or it is damaged",
        ),
    ],
    ids=["a layer less", "a layer more", "pickled"],
)
def test_a_file_with_other_layers_is_refused(change, sentence, tmp_path):
    arrays = random_weights()
    change(arrays)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(UserError, match=sentence):
        weights_file.read(tmp_path / "w.npz")


def test_other_classes_than_the_stores_are_refused():
    weights = {name: torch.from_numpy(array.squeeze()) for name, array in random_weights().items()}
    network = to_towers.with_widths_of(NetworkConfig(), weights)
    with pytest.raises(UserError, match="same 11 classes"):
        to_towers.build_towers(dataclasses.replace(PAPER, network=network), weights, classes=11)


def test_the_card_states_the_runs_own_record_and_its_example_runs(folder, small_run, tiny_store, network):
    card = (folder / "README.md").read_text()
    step = network.state["step"]
    lines = [line for line in read_log(small_run / "metrics.jsonl") if line["step"] == step]
    (errors,) = [line for line in lines if "val_top1_error" in line]
    assert f"| {100 * errors['val_top1_error']:.2f} % | {100 * errors['val_top5_error']:.2f} % |" in card
    assert open_data(tiny_store).fingerprint in card
    assert "--hidden was 2048, now 32" in card
    for link in re.findall(r"\]\((.*?)\)", card):
        assert (folder / link).exists(), link
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    Image.fromarray(open_data(tiny_store).val.read(np.array([3]))[0]).save(folder / "image.jpg")
    done = run("python", "-c", example, cwd=folder, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


def metadata(card):
    """What the hub reads of a card: YAML between the first two lines of dashes."""
    before, text, rest = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    assert before == ""
    assert rest.startswith("\n# AlexNet, ")
    return yaml.safe_load(text)


def test_the_card_has_the_metadata_of_the_hub(folder, small_run, network):
    found = metadata((folder / "README.md").read_text())
    (errors,) = [
        line
        for line in read_log(small_run / "metrics.jsonl")
        if line["step"] == network.state["step"] and "val_top1_error" in line
    ]
    (model,) = found.pop("model-index")
    assert found == {
        "license": "cc-by-4.0",
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["alexnet", "convolutional-neural-network", "image-classification"],
        "metrics": ["accuracy"],
    }
    assert model["name"] == "AlexNet, small"
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["type"] == "imagefolder"  # ten classes of drawings are not ImageNet
    right = [1 - errors["val_top1_error"], 1 - errors["val_top5_error"]]
    metrics = [(m["type"], m["name"], m["value"]) for m in result["metrics"]]
    assert metrics == [
        ("accuracy", f"Top-{k} accuracy", pytest.approx(value, abs=1e-6))
        for k, value in zip((1, 5), right, strict=True)
    ]


@pytest.mark.parametrize(("images", "imagenet"), [(50_000, True), (500, False)])
def test_results_are_those_of_imagenet_where_all_its_images_were_measured(
    images, imagenet, small_run, network, tmp_path
):
    shutil.copytree(small_run, tmp_path / "run")
    source = tmp_path / "run" / network.source.relative_to(small_run)
    counts = {"images": images, "top1_error": 0.4, "top1_wrong": images * 2 // 5, "top5_wrong": images // 5}
    (source / "validation.json").write_text(json.dumps(counts))
    classes = tuple(f"n{number:08d}" for number in range(1000))
    of_imagenet = dataclasses.replace(
        network, source=source, run=tmp_path / "run", classes=classes, class_names=None
    )
    found = metadata(model_card.markdown(of_imagenet, [], [], "pictures", None))
    assert found.get("datasets") == (["ILSVRC/imagenet-1k"] if imagenet else None)
    dataset = found["model-index"][0]["results"][0]["dataset"]
    assert dataset["type"] == ("ILSVRC/imagenet-1k" if imagenet else "imagefolder")
    assert "license" not in found


def test_a_card_without_measured_errors_has_no_results(network):
    unmeasured = dataclasses.replace(network, state={**network.state, "step": -1})
    card = model_card.markdown(unmeasured, [], [], "pictures", None)
    assert not {"model-index", "metrics"} & metadata(card).keys()
    assert "Not measured at this checkpoint." in card


def test_the_card_describes_the_input_of_the_files(folder, of_crops):
    both = "is in `alexnet.onnx` and in `alexnet.pt2`, "
    for place, words in (
        (folder, "`pictures`: uint8 [batch, 256, 256, 3]"),
        (of_crops, "`crops`: float32 [batch, 3, 224, 224]"),
    ):
        card = (place / "README.md").read_text()
        assert both in card
        assert words in card


def rewritten(whole, change):
    """An exported file with another header."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    change(header)
    data = json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + whole[8 + length :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:4],
        lambda whole: whole[:100],
        lambda whole: whole[:-100],
        lambda whole: b"\xff" * 8 + whole[8:],
        lambda whole: rewritten(whole, dict.clear),
        lambda whole: rewritten(whole, lambda header: header.pop("fc8.bias")),
        lambda whole: rewritten(whole, lambda header: header["fc8.bias"].update(shape=[-1, 3])),
        lambda whole: rewritten(whole, lambda header: header["fc8.bias"].update(data_offsets=None)),
        lambda whole: rewritten(whole, lambda header: header["__metadata__"].update(about="[]")),
        lambda whole: rewritten(whole, lambda header: header["__metadata__"].update(about='{"config": 3}')),
        lambda whole: rewritten(whole, lambda header: header["__metadata__"].update(about=None)),
    ],
)
def test_a_damaged_file_is_one_kind_of_error_for_the_module(damage, folder, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(damage((folder / "alexnet.safetensors").read_bytes()))
    with pytest.raises(ValueError, match=r"a\.safetensors is no exported network, or is damaged: "):
        standalone.AlexNet.load(tmp_path / "a.safetensors")
