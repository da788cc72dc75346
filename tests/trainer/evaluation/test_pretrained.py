"""A trained network loaded without MPI: probabilities, features and a module, against the run and by hand."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests.launch import ROOT, run
from trainer import load
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.metrics import Tally
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


def test_features_times_fc8_are_the_logits(network, val):
    images = val[0][:5]
    ((name, features),) = network.features(images, batch=2).items()
    a, b = (tower.fc8 for tower in network.towers)
    fc8 = np.concatenate([a.weight.numpy(), b.weight.numpy()], axis=1).astype(np.float64)
    logits = features.astype(np.float64) @ fc8.T + a.bias.numpy()
    np.testing.assert_allclose(network.logits(network.inputs(images, CENTER)), logits, atol=1e-5)
    assert (name, features.shape) == ("fc7", (5, 2 * network.config.network.hidden))


def test_features_of_every_layer_are_those_of_the_single_device_network(network, val):
    """Layer by layer with torch's own operations, from the output of the layer before it."""
    images = val[0][:3]
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    found = network.features(images, layers, batch=2)
    assert tuple(found) == layers
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in found.values())
    shapes = {"conv1": (12, 55, 55), "conv2": (16, 27, 27), "conv5": (16, 13, 13), "fc6": (64,), "fc8": (10,)}
    assert {layer: found[layer].shape for layer in shapes} == {n: (3, *s) for n, s in shapes.items()}

    w = {name: tensor.double() for name, tensor in network.tensors().items()}
    keep = 1 - network.config.network.dropout
    y = {layer: torch.from_numpy(array).double() for layer, array in found.items()}

    def conv(layer, x, **options):
        return F.relu(F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], **options))

    def pool(x):
        return F.max_pool2d(x, 3, 2)

    def norm(x):  # torch divides alpha by n
        s = network.config.network
        halves = [
            F.local_response_norm(half, s.lrn_size, s.lrn_alpha * s.lrn_size, s.lrn_beta, s.lrn_k)
            for half in x.chunk(2, 1)
        ]
        return torch.cat(halves, 1)

    inputs = network.inputs(images, CENTER).double()
    assert network.config.network.conv1_order == network.config.network.conv2_order == "relu-lrn-pool"
    expected = {
        "conv1": conv("conv1", F.pad(inputs, (0, 3, 0, 3)), stride=4),
        "conv2": conv("conv2", pool(norm(y["conv1"])), padding=2, groups=2),
        "conv3": conv("conv3", pool(norm(y["conv2"])), padding=1),
        "conv4": conv("conv4", y["conv3"], padding=1, groups=2),
        "conv5": conv("conv5", y["conv4"], padding=1, groups=2),
        "fc6": F.relu(F.linear(pool(y["conv5"]).flatten(1), w["fc6.weight"], w["fc6.bias"])) * keep,
        "fc7": F.relu(F.linear(y["fc6"], w["fc7.weight"], w["fc7.bias"])) * keep,
        "fc8": F.linear(y["fc7"], w["fc8.weight"], w["fc8.bias"]),
    }
    for layer, array in expected.items():
        torch.testing.assert_close(y[layer], array, rtol=0, atol=1e-5 * float(array.abs().max()))
        assert float(array.abs().max()) > 0


def test_features_of_one_name_and_of_a_wrong_one(network, val):
    images = val[0][:2]
    assert list(network.features(images, "conv5")) == ["conv5"]
    np.testing.assert_array_equal(network.features(images, "fc7")["fc7"], network.features(images)["fc7"])
    with pytest.raises(ValueError, match=r"\['fc9'\] are not among the layers conv1, "):
        network.features(images, ("fc7", "fc9"))
    assert all(tower.watch is None for tower in network.towers)


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
