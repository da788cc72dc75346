"""Caffe's .caffemodel and .binaryproto against a plain network with Caffe's arithmetic, layer by layer."""

import dataclasses
import json
import re

import numpy as np
import pytest

from tests.launch import ROOT, ranks
from tests.trainer.in_process import command
from tests.trainer.interchange import caffe, hooks
from tests.weights import narrow_alexnet
from trainer.config import AugmentConfig, NetworkConfig
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.interchange import mean_image, weights_file

DRAW = np.random.default_rng(3)
IMAGES = DRAW.integers(0, 256, (2, 256, 256, 3), np.uint8)
MEAN = DRAW.uniform(90, 130, (3, 256, 256)).astype(np.float32)  # blue, green, red


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mean.binaryproto").write_bytes(caffe.blob(MEAN[None], old_shape=True).SerializeToString())
    (tmp_path / "classes.txt").write_text("".join(f"class {k}\n" for k in range(10)))
    return tmp_path


def write(folder, v1=False, weights=None, layers=None, **kinds):
    weights = narrow_alexnet() if weights is None else weights
    made = caffe.net(weights, layers or caffe.train_val(**kinds), v1)
    (folder / "w.caffemodel").write_bytes(made.SerializeToString())
    return folder / "w.caffemodel"


def imported(folder, *flags):
    done = command("import_weights", "w.caffemodel", "--run", "run", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return load(folder / "run", device="cpu"), done.stdout


@pytest.mark.parametrize("order", ["relu-lrn-pool", "relu-pool-lrn"])  # bvlc_alexnet, bvlc_reference_caffenet
@pytest.mark.parametrize("v1", [False, True])
def test_every_layer_gives_what_caffe_gives(order, v1, folder):
    write(folder, v1, order=order)
    network, _ = imported(folder, "--mean", "mean.binaryproto", "--classes", "classes.txt")
    expected = caffe.outputs(narrow_alexnet(), caffe.inputs(IMAGES, MEAN), order)
    hooks.require_equal(hooks.outputs(network, IMAGES), expected)
    p_BK = expected["fc8"].softmax(1).numpy()
    np.testing.assert_allclose(network.probabilities(IMAGES), p_BK, rtol=1e-4, atol=1e-6)
    assert network.classes == tuple(f"class {k}" for k in range(10))
    np.testing.assert_array_equal(network.mean_SS3, MEAN[::-1].transpose(1, 2, 0))


def test_settings_are_the_files_own(folder):
    read = weights_file.read(write(folder, order="relu-pool-lrn", scale=1 / 256))
    assert read.described.augment == AugmentConfig(crop_size=227, divisor=256)
    # Of the paper's network differ: no padding, k, Caffe's alpha 1e-4 divided by n = 5, LRN over both towers.
    assert read.described.network == NetworkConfig(
        conv1_pad=0,
        lrn_k=1.0,
        lrn_alpha=2e-5,
        lrn_over="both",
        conv1_order="relu-pool-lrn",
        conv2_order="relu-pool-lrn",
        inverted_dropout=True,
    )


def test_scale_and_mean_values_of_the_file_are_taken(folder):
    write(folder, scale=1 / 64, mean=(104, 117, 123))
    network, output = imported(folder, "--classes", "classes.txt")
    mean = np.broadcast_to(np.array([104, 117, 123.0]).reshape(3, 1, 1), MEAN.shape)
    expected = caffe.outputs(narrow_alexnet(), caffe.inputs(IMAGES, mean, scale=1 / 64))
    hooks.require_equal(hooks.outputs(network, IMAGES), expected)
    assert "pixels: divided by 64 after the mean is subtracted" in output
    assert "mean image: 104.0, 117.0, 123.0 in w.caffemodel; on average 123.0, 117.0, 104.0" in output


def test_a_dense_network_is_imported_as_one(folder):
    weights = narrow_alexnet()
    draw = np.random.default_rng(4)
    for layer in ("conv2", "conv4", "conv5"):
        f, c, h, w = weights[f"{layer}.weight"].shape
        weights[f"{layer}.weight"] = draw.standard_normal((f, 2 * c, h, w)) * (1 / (c * h * w)) ** 0.5
    write(folder, weights=weights, groups=1)
    network, output = imported(folder, "--mean", "mean.binaryproto", "--classes", "classes.txt")
    expected = caffe.outputs(weights, caffe.inputs(IMAGES, MEAN), groups=1)
    hooks.require_equal(hooks.outputs(network, IMAGES), expected)
    assert network.config.network.dense
    assert "(dense)" in output


def test_each_difference_is_printed_in_a_line(folder):
    write(folder, order="relu-pool-lrn")
    _, output = imported(folder, "--mean", "mean.binaryproto", "--classes", "classes.txt")
    means = ", ".join(f"{value:.1f}" for value in MEAN.mean((1, 2))[::-1])
    assert output.splitlines()[:-1] == [
        "channels: conv1 read blue, green, red (assumed: all of Caffe's networks do); its weights are "
        "reversed for red, green, blue",
        "crops: 227x227 pixels and no padding: conv1 has 55x55 outputs",
        "normalisation (LRN): n = 5, k = 1, alpha = 2e-05 (the file's 0.0001, divided by n), beta = 0.75, "
        "over the channels of both towers",
        "order: after conv1 come relu, pool, lrn",
        "order: after conv2 come relu, pool, lrn",
        "dropout: 0.5, inverted: training divides by 0.5 and evaluation changes nothing",
        f"mean image: mean.binaryproto; on average {means} (red, green, blue)",
        "classes: 10, those of classes.txt",
        "images: Caffe's tools warp each image to 256x256 pixels; here its shorter side becomes 256 and the "
        "centre is kept, so that errors differ a little from the published ones",
    ]


def deploy(order="relu-lrn-pool"):
    """deploy.prototxt: no data layer, no loss, an Input layer instead."""
    yield "Input", "data", [], ["data"], {"input_param": {"shape": [{"dim": [10, 3, 227, 227]}]}}
    yield from list(caffe.train_val(order))[1:-2]
    yield "Softmax", "prob", ["fc8"], ["prob"], {}


def test_the_size_of_the_crops_is_that_of_a_deployed_networks_input(folder):
    read = weights_file.read(write(folder, layers=deploy()))
    assert (read.described.augment.crop_size, read.described.side_assumed) == (227, False)
    read = weights_file.read(write(folder, layers=list(deploy())[1:]))
    assert (read.described.augment.crop_size, read.described.side_assumed) == (227, True)


def test_old_data_layers_have_crop_and_scale_in_data_param(folder):
    layers = list(caffe.train_val())
    layers[0] = (*layers[0][:4], {"data_param": {"crop_size": 227, "scale": 0.5, "mean_file": "m"}})
    read = weights_file.read(write(folder, v1=True, layers=layers))
    assert read.described.augment.divisor == 2
    assert not read.described.side_assumed


def test_a_thousand_outputs_are_the_classes_of_ilsvrc_2012_without_a_store(folder):
    write(folder, weights=narrow_alexnet(classes=1000))
    network, output = imported(folder, "--mean", "104", "117", "123")
    assert (network.classes[0], network.classes[999]) == ("n01440764", "n15075141")
    assert network.name(281) == "tabby"
    assert "classes: 1,000, those of ILSVRC-2012 by WordNet ID (assumed: it has 1,000 outputs)" in output
    assert network.mean_SS3[0, 0].tolist() == [123, 117, 104]


def changed(name, **parameters):
    """train_val.prototxt with other parameters of one layer."""
    for kind, own, bottom, top, given in caffe.train_val():
        merged = {key: {**value, **parameters} for key, value in given.items()} if own == name else given
        yield kind, own, bottom, top, merged


def without(name):
    return [layer for layer in caffe.train_val() if layer[1] != name]


NOT_THE_PAPERS = {
    "no norm1": (without("norm1"), "conv1 reads|norm1|pool1 reads"),
    "no relu5": (without("relu5"), "and the file's are: conv relu lrn pool conv"),
    "average": (changed("pool5", pool=1), "no layer such as pool5, of type Pooling"),
    "within a channel": (changed("norm2", norm_region=1), "no layer such as norm2, of type LRN"),
    "other constants": (changed("norm2", beta=0.5), "beta=0.75.* and .*beta=0.5.* differ"),
    "stride": (
        changed("conv1", stride=[2]),
        r"conv1 has weights of shape \[12, 3, 11, 11\], stride \(2, 2\)",
    ),
    "dilated": (changed("conv3", dilation=[2]), "conv3 is dilated"),
    "groups": (changed("conv2", group=4), "and 4 groups, and conv2 has"),
    "small pooling": (changed("pool2", kernel_size=2), "does not pool 3x3 pixels"),
    "padded pooling": (changed("pool1", pad=1), "does not pool 3x3 pixels"),
    "small crop": (changed("data", crop_size=128), "its input has 128 pixels along a side, not 224 or 227"),
    "other dropout": (changed("drop7", dropout_ratio=0.25), "p=0.5.* and .*p=0.25.* differ"),
    "all dropped": (
        [
            (*layer[:4], {"dropout_param": {"dropout_ratio": 1.0}}) if layer[0] == "Dropout" else layer
            for layer in caffe.train_val()
        ],
        "--dropout must be",
    ),
    "leaky": (
        [
            (*layer[:4], {"relu_param": {"negative_slope": 0.1}}) if layer[1] == "relu3" else layer
            for layer in caffe.train_val()
        ],
        "no layer such as relu3, of type ReLU",
    ),
}


@pytest.mark.parametrize("name", NOT_THE_PAPERS)
def test_another_network_is_refused_by_what_differs(name, folder):
    layers, sentence = NOT_THE_PAPERS[name]
    path = write(folder, layers=list(layers))
    with pytest.raises(UserError, match=f"is not the paper's network and cannot be imported: .*({sentence})"):
        weights_file.read(path)


def test_a_layer_beside_the_others_is_refused(folder):
    layers = list(caffe.train_val())
    at = [layer[1] for layer in layers].index("conv3")
    layers[at] = (*layers[at][:2], ["pool1"], ["conv3"], layers[at][4])
    with pytest.raises(UserError, match=r"conv3 reads \['pool1'\], and the layer before it makes pool2"):
        weights_file.read(write(folder, layers=layers))


def test_torchvisions_is_refused_with_its_sentence(folder):
    layers = [layer for layer in caffe.train_val() if layer[0] != "LRN"]
    weights = narrow_alexnet() | {"conv1.weight": np.zeros((64, 3, 11, 11)), "conv1.bias": np.zeros(64)}
    made = caffe.net(weights, layers)
    for layer in made.layer:  # what read a norm reads what the norm read
        layer.bottom[:] = [{"norm1": "conv1", "norm2": "conv2"}.get(name, name) for name in layer.bottom]
    (folder / "w.caffemodel").write_bytes(made.SerializeToString())
    with pytest.raises(UserError, match="torchvision's alexnet, which is another network"):
        weights_file.read(folder / "w.caffemodel")


def test_a_file_of_2013_is_refused_with_caffes_own_remedy(folder):
    made = caffe.MESSAGES["NetParameter"](name="CaffeNet")
    made.layers.add(bottom=["data"], top=["conv1"]).layer.name = "conv1"
    (folder / "w.caffemodel").write_bytes(made.SerializeToString())
    with pytest.raises(UserError, match=r"format of 2013 .* upgrade_net_proto_binary"):
        weights_file.read(folder / "w.caffemodel")


def test_a_network_without_weights_or_with_other_counts_is_refused(folder):
    with pytest.raises(UserError, match="its layer conv1 has 0 arrays of numbers, not weights and biases"):
        weights_file.read(write(folder, weights={}))
    made = caffe.net(narrow_alexnet(), caffe.train_val())
    made.layer[1].blobs[0].shape.dim[0] = 13
    (folder / "w.caffemodel").write_bytes(made.SerializeToString())
    with pytest.raises(UserError, match=r"an array of shape \[13, 3, 11, 11\] has 4,356 numbers"):
        weights_file.read(folder / "w.caffemodel")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--lrn-k", "2", "--divisor", "3"], "has its network's layers, which settles this: .* --divisor"),
        (["--like", "bvlc_alexnet"], "which settles this: leave out --like"),
        ([], "has no mean image: name it with --mean imagenet_mean.binaryproto"),
        (["--mean", "104"], "has 10 outputs, and no file of weights has the names of its classes"),
        (["--mean", "104", "117"], "--mean takes a number for each of 3 channels, not 2"),
        (["--mean", "1e4"], "has values that are no pixels, 0 to 255"),
        (["--mean", "none.npy"], "There is no file none.npy"),
        (["--mean", "classes.txt"], "classes.txt is no .binaryproto of Caffe and no plain .npy"),
        (["--mean", "w.caffemodel"], "w.caffemodel is no .binaryproto"),
        (["--mean", "small.npy"], r"has the shape \[3, 227, 227\], and a mean image must be \[3, 256, 256\]"),
        (["--mean", "1", "--classes", "two.txt"], "has 10 outputs and two.txt 2 classes: name another one"),
        (["--mean", "1", "--classes", "twice.txt"], "twice.txt has the class a twice"),
        (["--mean", "1", "--classes", "none.txt"], "The classes in none.txt cannot be read: No such file"),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(flags, sentence, folder):
    write(folder)
    np.save(folder / "small.npy", np.zeros((3, 227, 227)))
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "twice.txt").write_text("a\nb\na\n")
    done = command("import_weights", "w.caffemodel", "--run", "run", *flags, cwd=folder)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert re.search(sentence, done.stderr), done.stderr
    assert not (folder / "run").exists()


def test_a_mean_image_is_read_from_each_kind_of_file(folder, tmp_path):
    expected = MEAN[::-1].transpose(1, 2, 0)
    np.save(tmp_path / "ilsvrc_2012_mean.npy", MEAN)
    for name in ("mean.binaryproto", "ilsvrc_2012_mean.npy"):
        np.testing.assert_array_equal(mean_image.read([str(tmp_path / name)], 256, bgr=True), expected)
    np.save(tmp_path / "pixel.npy", MEAN.mean((1, 2)))
    found = mean_image.read([str(tmp_path / "pixel.npy")], 256, bgr=False)
    np.testing.assert_allclose(found[7, 9], MEAN.mean((1, 2)))
    assert mean_image.read(["120"], 4, bgr=True).tolist() == np.full((4, 4, 3), 120.0).tolist()


def test_the_words_after_wordnet_ids_become_names(folder):
    lines = [f"n0000000{k} thing {k}, other {k}" for k in range(10)]
    (folder / "synset_words.txt").write_text("\n".join(lines))
    write(folder)
    network, _ = imported(folder, "--mean", "120", "--classes", "synset_words.txt")
    assert network.classes[3] == "n00000003"
    assert network.class_names[3] == "thing 3, other 3"


def test_what_was_imported_is_evaluated_exported_and_used_for_predictions(folder, tiny_store):
    write(folder)
    network, _ = imported(folder, "--mean", "mean.binaryproto", "--store", tiny_store)
    run = ("--run", str(folder / "run"), "--store", str(tiny_store), "--json")
    done = command("evaluate", *run, folder / "one.json", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    output = " ".join(done.stdout.split())
    assert "is not the store that this network was trained on: the network's own mean image is" in output
    done = ranks(2, "-m", "trainer.evaluate", *run, str(folder / "two.json"), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((folder / name).read_text()) for name in ("one.json", "two.json"))
    assert one["images"] == two["images"] == 30
    assert (one["top1_error"], one["top5_error"]) == (two["top1_error"], two["top5_error"])
    done = command("export", "run", "--to", "exported", "--no-onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    card = (folder / "exported" / "README.md").read_text()
    assert "imported from w.caffemodel, with 10 classes of images." in card
    assert "--lrn-over was tower, now both" in card
    assert not re.search("trained from scratch|Batch 128|fingerprint", card)
    again = load(folder / "exported" / "alexnet.safetensors", device="cpu")
    np.testing.assert_array_equal(again.probabilities(IMAGES), network.probabilities(IMAGES))
    done = command("import_weights", "exported/alexnet.safetensors", "--run", "back", cwd=folder)
    assert done.returncode == 0, done.stderr
    back = load(folder / "back", device="cpu")
    np.testing.assert_array_equal(back.probabilities(IMAGES), network.probabilities(IMAGES))
    assert dataclasses.asdict(back.config.network) == dataclasses.asdict(network.config.network)
