"""A trained network loaded without MPI: probabilities, features and a module, against the run and by hand."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from preprocess.pictures.images import square
from tests.launch import ROOT, run
from tests.preprocess.helpers import draw
from trainer import load
from trainer.config import to_dict
from trainer.data.augmentation import ten_crops
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.layers import LAYERS, outputs, table
from trainer.evaluation.metrics import Tally
from trainer.model.standalone import AlexNet
from trainer.recipes import PAPER
from trainer.runs.log import read_log

CENTER = (16, 16, False)


@pytest.fixture(scope="module")
def network(small_run):
    return load(small_run, "latest", device="cpu")


@pytest.fixture(scope="module")
def val(tiny_store):
    """All validation images and their classes."""
    split = open_data(tiny_store).val
    return split.read(np.arange(len(split))), torch.from_numpy(split.labels.astype(np.int64))


def test_its_errors_are_those_that_the_run_logged(network, val, small_run):
    images, labels = val
    scores = torch.from_numpy(network.probabilities(images, batch=7))
    counts = Tally(scores.shape[1]).add(scores, labels).counts
    last = [line for line in read_log(small_run / "metrics.jsonl") if "val_top1_error" in line][-1]
    assert (counts.top1_error, counts.top5_error) == (last["val_top1_error"], last["val_top5_error"])


def test_ten_crops_average_softmax_outputs_of_views_cropped_by_hand(network, val):
    images = val[0][:3]
    scaled = (images.astype(np.float64) - network.mean_SS3) / network.config.augment.divisor
    views = []
    for top, left in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16)):
        crop = scaled[:, top : top + 224, left : left + 224]
        views += [crop, crop[:, :, ::-1]]
    outputs = [
        network.logits(torch.from_numpy(v.copy()).float().permute(0, 3, 1, 2)).softmax(1) for v in views
    ]
    expected = torch.stack(outputs).double().mean(0).numpy()
    np.testing.assert_allclose(network.probabilities(images, ten_crop=True, batch=2), expected, atol=1e-6)
    assert np.abs(network.probabilities(images) - expected).max() > 1e-6


def test_its_classes_are_the_stores(network, tiny_store):
    store = open_data(tiny_store)
    assert network.classes == store.classes
    assert network.class_names == store.class_names


def test_no_images_give_arrays_without_rows(network):
    none = np.empty((0, 256, 256, 3), np.uint8)
    assert network.probabilities(none).shape == (0, 10)
    assert network.features(none)["fc7"].shape == (0, 64)


def test_drop7_times_fc8_are_the_logits(network, val):
    images = val[0][:5]
    ((name, features),) = network.features(images, "drop7", batch=2).items()
    a, b = (tower.fc8 for tower in network.towers)
    fc8 = np.concatenate([a.weight.numpy(), b.weight.numpy()], axis=1).astype(np.float64)
    logits = features.astype(np.float64) @ fc8.T + a.bias.numpy()
    np.testing.assert_allclose(network.logits(network.inputs(images, CENTER)), logits, atol=1e-5)
    assert (name, features.shape) == ("drop7", (5, 2 * network.config.network.hidden))


def functional(network, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every layer's output by torch's own functions, in float64, from the network's input."""
    w = {name: tensor.double() for name, tensor in network.tensors().items()}
    s = network.config.network
    assert s.conv1_order == s.conv2_order == "relu-lrn-pool"
    y = {"pool0": F.pad(x.double(), (0, 3, 0, 3))}

    def layer(name, source, function=F.conv2d, **options):
        y[f"{name}.linear"] = function(y[source], w[f"{name}.weight"], w[f"{name}.bias"], **options)
        y[name] = F.relu(y[f"{name}.linear"])

    def norm(x):  # torch divides alpha by n
        constants = s.lrn_size, s.lrn_alpha * s.lrn_size, s.lrn_beta, s.lrn_k
        return torch.cat([F.local_response_norm(half, *constants) for half in x.chunk(2, 1)], 1)

    for number, options in ((1, {"stride": 4}), (2, {"padding": 2, "groups": 2})):
        layer(f"conv{number}", f"pool{number - 1}", **options)
        y[f"norm{number}"] = norm(y[f"conv{number}"])
        y[f"pool{number}"] = F.max_pool2d(y[f"norm{number}"], 3, 2)
    layer("conv3", "pool2", padding=1)
    layer("conv4", "conv3", padding=1, groups=2)
    layer("conv5", "conv4", padding=1, groups=2)
    y["pool5"] = F.max_pool2d(y["conv5"], 3, 2)
    y["drop5"] = y["pool5"].flatten(1)
    for number in (6, 7):
        layer(f"fc{number}", f"drop{number - 1}", F.linear)
        y[f"drop{number}"] = y[f"fc{number}"] * (1 - s.dropout)
    y["fc8"] = F.linear(y["drop7"], w["fc8.weight"], w["fc8.bias"])
    y["prob"] = y["fc8"].softmax(1)
    del y["pool0"], y["drop5"]
    return y


def close(found, expected):
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_features_of_every_layer_are_those_of_torchs_functions(network, val):
    images = val[0][:3]
    expected = functional(network, network.inputs(images, CENTER))
    found = network.features(images, tuple(LAYERS), batch=2)
    assert expected.keys() == found.keys() == LAYERS.keys()
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in found.values())
    for name, y in expected.items():
        close(found[name], y.numpy())


def test_features_of_ten_crops_are_averages(network, val):
    images = val[0][:3]
    views = ten_crops(256, 224)
    each = [functional(network, network.inputs(images, view)) for view in views]
    names = ("conv5.linear", "fc7", "prob")
    found = network.features(images, names, ten_crop=True, batch=2)
    for name in names:
        close(found[name], sum(y[name] for y in each).numpy() / 10)
        assert np.abs(found[name] - each[4][name].numpy()).max() > 1e-3 * np.abs(found[name]).max()
    np.testing.assert_allclose(found["prob"], network.probabilities(images, ten_crop=True), atol=1e-6)


def test_features_are_what_forward_hooks_get(network, val):
    images, module, seen = val[0][:2], network.module(), {}
    for name in ("conv2", "relu2", "norm2", "pool2", "relu6", "drop6"):
        module.get_submodule(name).register_forward_hook(lambda m, x, y, name=name: seen.update({name: y}))
    module(network.inputs(images, CENTER))
    found = network.features(images, ("conv2.linear", "conv2.relu", "norm2", "pool2", "relu6", "drop6"))
    for array, y in zip(found.values(), seen.values(), strict=True):
        close(array, y.detach().numpy())


def test_features_of_one_name_and_of_a_wrong_one(network, val):
    images = val[0][:2]
    assert list(network.features(images, "conv5")) == ["conv5"]
    np.testing.assert_array_equal(network.features(images, "fc7")["fc7"], network.features(images)["fc7"])
    with pytest.raises(ValueError, match=r"fc9 is not among this network's layers: conv1\.linear, conv1, "):
        network.features(images, ("fc7", "fc9"))
    settings = dataclasses.replace(network.config.network, lrn=False)
    without = dataclasses.replace(network, config=dataclasses.replace(network.config, network=settings))
    with pytest.raises(ValueError, match="norm1 is not among this network's layers"):
        without.features(images, "norm1")


def test_no_layer_is_computed_after_the_last_that_is_named(network, val):
    module = network.module()
    module.conv4 = torch.nn.Linear(1, 1)  # raises for the input of conv4
    x_BCHW = network.inputs(val[0][:1], CENTER)
    assert outputs(module, x_BCHW, ("conv3", "conv1"))["conv3"].shape == (1, 24, 13, 13)
    with pytest.raises(RuntimeError):
        outputs(module, x_BCHW, ("conv4",))


@pytest.fixture
def photographs(tmp_path):
    """Files of another size than the network's, and their images as preprocessing makes them."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        draw(number, 300, 240).save(path)
    return paths, np.stack([square(path.read_bytes(), path.name, 256).pixels for path in paths])


def test_images_are_given_as_paths_or_as_arrays(network, photographs):
    paths, images = photographs
    expected = network.probabilities(images)
    assert np.abs(expected[0] - expected[1]).max() > 1e-6
    for given, rows in (
        (paths, [0, 1, 2]),
        ((path for path in paths), [0, 1, 2]),
        ([str(paths[1]), images[0]], [1, 0]),
        (str(paths[2]), [2]),
        (paths[1], [1]),
        (images[2], [2]),
        (torch.from_numpy(images[1:]), [1, 2]),
        (list(images), [0, 1, 2]),
        ([], []),
    ):
        np.testing.assert_allclose(network.probabilities(given, batch=2), expected[rows], atol=1e-6)
    fc6 = network.features(images, "fc6")["fc6"]
    np.testing.assert_allclose(network.features(paths, "fc6", batch=2)["fc6"], fc6, atol=1e-5)
    np.testing.assert_array_equal(network.preprocess(paths[0]), images[0])


def test_a_file_is_turned_as_the_training_set_was(network, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = draw(5, 300, 240)
    photograph.save(tmp_path / "sideways.png", exif=exif)
    photograph.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    turned = dataclasses.replace(network, upright=True).preprocess(tmp_path / "sideways.png")
    np.testing.assert_array_equal(turned, network.preprocess(tmp_path / "upright.png"))
    assert not np.array_equal(turned, network.preprocess(str(tmp_path / "sideways.png")))


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((2, 256, 256, 3), np.float32), "float32 [2, 256, 256, 3]"),
        (np.zeros((2, 224, 224, 3), np.uint8), "uint8 [2, 224, 224, 3]"),
        (np.zeros((2, 3, 256, 256), np.uint8), "uint8 [2, 3, 256, 256]"),
        (np.zeros((256, 256), np.uint8), "uint8 [256, 256]"),
        (torch.rand(256, 256, 3), "float32 [256, 256, 3]"),
        ([np.zeros((256, 256, 3), np.int64)], "int64 [256, 256, 3]"),
        (np.uint8(7), "uint8 []"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_array_of_another_kind_is_refused(network, images, found):
    sentence = f"images must be uint8, 0..255, RGB, [256, 256, 3] or [B, 256, 256, 3], not {found}; "
    for function in (network.probabilities, network.features):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            function(images)


def test_a_file_that_cannot_be_read_is_named(network, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    for function in (network.preprocess, network.probabilities, network.features):
        with pytest.raises(UserError, match=r"broken\.jpg has no known image format"):
            function(tmp_path / "broken.jpg")
        with pytest.raises(UserError, match=r"none\.jpg cannot be read: No such file"):
            function(tmp_path / "none.jpg")


def test_the_table_of_layers_has_the_shapes_of_the_papers_network():
    about = {"config": to_dict(PAPER), "classes": [""] * 1000, "class_names": None, "image_size": 256}
    with torch.device("meta"):
        found = outputs(AlexNet(about), torch.empty(2, 3, 224, 224), tuple(LAYERS))
    assert {name: tuple(y.shape[1:]) for name, y in found.items()} == {
        n: of.shape for n, of in LAYERS.items()
    }
    lines = table().splitlines()
    assert [line.split()[0] for line in lines] == list(LAYERS)
    assert "  pool5         256x6x6    after pooling" in lines


def test_the_module_gives_the_same_logits_and_gradients(network, val):
    images, labels = val[0][:3], val[1][:3]
    module = network.module()
    assert not module.training
    x_BCHW = network.inputs(images, CENTER).requires_grad_()
    logits = module(x_BCHW)
    expected = network.logits(network.inputs(images, CENTER))
    torch.testing.assert_close(logits.detach(), expected.clone(), rtol=0, atol=1e-5)

    F.cross_entropy(logits, labels).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in module.parameters())
    # The gradient with respect to fc8's bias is the mean of softmax less the one-hot labels.
    by_hand = (expected.softmax(1) - F.one_hot(labels, 10)).mean(0)
    torch.testing.assert_close(module.fc8.bias.grad, by_hand, rtol=0, atol=1e-6)
    assert float(x_BCHW.grad.abs().max()) > 0


def test_the_module_has_its_own_weights_and_draws_no_random_numbers(network):
    before = torch.random.get_rng_state()
    module = network.module()
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        module.fc8.bias.add_(1)
        module.mean_image.add_(1)
    assert torch.equal(network.module().fc8.bias, network.towers[0].fc8.bias)
    np.testing.assert_array_equal(network.module().mean_image, network.mean_SS3)


def test_a_checkpoints_own_folder_loads_that_checkpoint(small_run):
    folder = sorted((small_run / "checkpoints").glob("step-*"))[0]
    found = load(folder, device="cpu")
    assert (found.source, found.run) == (folder, small_run)


FRESH = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job of a shell
import trainer
light = not {"torch", "numpy", "mpi4py"} & set(sys.modules)
from trainer import load
handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
network = load(%r)
print(json.dumps([light, handler, "mpi4py" in sys.modules, len(network.classes)]))
"""


@pytest.mark.parametrize("given", [True, False], ids=["a run", "the latest run"])
def test_a_program_loads_a_network_without_mpi_and_keeps_its_sigint(given, small_run):
    script = FRESH % str(small_run) if given else FRESH.replace("%r", "")
    done = run("python", "-c", script, cwd=small_run.parent.parent, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, True, False, 10]


def test_it_loads_where_mpi_is_missing(small_run):
    lines = (
        "import sys; sys.modules['mpi4py'] = None",
        "from trainer import load",
        f"print(len(load({str(small_run)!r}).classes))",
    )
    done = run("python", "-c", "\n".join(lines), cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


def test_the_package_has_no_other_lazy_name():
    with pytest.raises(ImportError, match="cannot import name 'open_trained'"):
        from trainer import open_trained  # noqa: F401


def test_a_path_that_is_no_run_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"python -m trainer\.export"):
        load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("about", [None, "[]", '{"config": []}', '{"config": {"network": {"width": 1}}}'])
def test_a_file_that_was_not_exported_is_a_clear_error(about, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"mean_image": torch.zeros(256, 256, 3)}, path, about and {"about": about})
    with pytest.raises(UserError, match=r"was not written by|does not know"):
        load(path)
