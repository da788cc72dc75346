"""ONNX files as the model zoo has them, against onnxruntime, layer by layer."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.trainer.in_process import command
from tests.trainer.interchange import caffe, hooks
from tests.trainer.interchange.test_import_weights import REFUSED
from tests.trainer.interchange.zoo import CAFFE, PADS, graph, node
from tests.weights import narrow_alexnet
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.interchange import weights_file

IMAGES = np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), np.uint8)
MEAN = np.broadcast_to(np.array([103.939, 116.779, 123.68]).reshape(3, 1, 1), (3, 256, 256))


def run_by_onnxruntime(model, names, x_BCHW):
    """Every node's output, by the module's name; one image at a time, as the graph's reshape needs."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for name in set(names.values()) - {"prob_1"}:
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = [name for name in names if name not in ("reshape", "prob")]
    parts = [session.run([names[n] for n in wanted], {"data_0": x[None].numpy()}) for x in x_BCHW.float()]
    return {name: np.concatenate(ys) for name, ys in zip(wanted, zip(*parts, strict=True), strict=True)}


def imported(model, folder, *flags):
    onnx.save(model, folder / "w.onnx")
    (folder / "classes.txt").write_text("".join(f"class {k}\n" for k in range(10)))
    words = ("w.onnx", "--run", "run", "--mean", "103.939", "116.779", "123.68", "--classes", "classes.txt")
    done = command("import_weights", *words, *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return load(folder / "run", device="cpu"), done.stdout


VARIANTS = {
    "the zoo's bvlcalexnet": {},
    "the zoo's caffenet": {"order": "relu-pool-lrn"},
    "opset 12": {"opset": 12},
    "float_data": {"float_data": True},
    "rounding up by padding": {"pads": CAFFE},
    "rounding up by ceil_mode": {"pads": ([0] * 4,) * 3, "ceil_mode": 1, "opset": 10},
    "227 pixels": {"pads": ([0] * 4,) * 3, "side": 227},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_gives_what_onnxruntime_gives(name, tmp_path):
    options = VARIANTS[name]
    model, names = graph(**options)
    network, _ = imported(model, tmp_path)
    x = caffe.inputs(IMAGES, MEAN, side=options.get("side", 224))
    hooks.require_equal(hooks.outputs(network, IMAGES), run_by_onnxruntime(model, names, x))
    assert network.config.network.dropout == 0.25


def test_the_towers_give_what_onnxruntime_gives(tmp_path):
    model, names = graph()
    network, output = imported(model, tmp_path)
    expected = run_by_onnxruntime(model, names, caffe.inputs(IMAGES, MEAN, side=224))["fc8"]
    found = torch.as_tensor(network.probabilities(IMAGES))
    torch.testing.assert_close(found, torch.as_tensor(expected).softmax(1), rtol=1e-4, atol=1e-6)
    assert "crops: 224x224 pixels and no padding: conv1 has 54x54 outputs" in output
    assert "pooling: rounds down, to 26x26 and 12x12 outputs" in output
    assert network.mean_SS3[0, 0].tolist() == np.float32([123.68, 116.779, 103.939]).tolist()


def test_red_green_blue_can_be_said(tmp_path):
    model, _ = graph()
    network, output = imported(model, tmp_path, "--channels", "rgb")
    weight = network.tensors()["conv1.weight"].numpy()
    np.testing.assert_array_equal(weight, np.float32(narrow_alexnet()["conv1.weight"]))
    assert "blue, green, red" not in output


def changed(change, **options):
    model, _ = graph(**options)
    change(model.graph)
    return model


def of_kind(graph, kind):
    return [n for n in graph.node if n.op_type == kind]


def quantised(graph):
    graph.node[3].op_type = "DequantizeLinear"


def external(graph):
    tensor = graph.initializer[4]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def integers(graph):
    tensor = next(t for t in graph.initializer if t.name == "fc7_b_0")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(64, np.int8), "fc7_b_0"))


def named(graph, name):
    return next(t for t in graph.initializer if t.name == name)


FILES = {
    "quantised": (changed(quantised), "holds a quantised network, .* bvlcalexnet-12.onnx"),
    "external": (changed(external), "has its weights in another file; write both into one: python -c"),
    "int8": (changed(integers), "fc7_b_0 is not of float32, float16 or float64"),
    "other node": (
        changed(lambda g: setattr(g.node[1], "op_type", "Sigmoid")),
        "no node such as .*of type Sigmoid",
    ),
    "Same padding": (
        changed(lambda g: g.node[0].attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))),
        "is dilated, or its padding is not four numbers",
    ),
    "pool5 without padding": (
        changed(lambda g: None, pads=([0] * 4,) * 3),
        r"pooling leaves \[26, 12, 5\] pixels",
    ),
    "pool1 alone rounds down": (
        changed(lambda g: None, pads=([0] * 4, PADS, PADS)),
        r"pooling leaves \[26, 13, 6\]",
    ),
    "no weights": (changed(lambda g: g.initializer.remove(named(g, "fc6_w_0"))), "are not among its weights"),
    "no nodes": (changed(lambda g: g.ClearField("node")), "and the file's are: none"),
    "a branch": (
        changed(lambda g: g.node[6].input.__setitem__(0, "conv1_2")),
        "reads conv1_2, and the node before",
    ),
    "other size": (changed(lambda g: None, side=256), "its input has 256 pixels along a side"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_one_sentence(name, tmp_path):
    model, sentence = FILES[name]
    (tmp_path / "w.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=sentence) as refused:
        weights_file.read(tmp_path / "w.onnx")
    assert len(str(refused.value).splitlines()) == 1


def test_torchvisions_alexnet_is_refused_with_its_sentence(tmp_path):
    """As torch exports it: 64 filters, no LRN."""
    kinds = [*["Conv", "Relu", "MaxPool"] * 2, *["Conv", "Relu"] * 3, "MaxPool", "Flatten"]
    nodes, at = [], "x"
    for number, kind in enumerate(kinds):
        inputs = [at, "weight", "bias"] if kind == "Conv" else [at]
        nodes.append(node(kind, inputs, [f"y{number}"]))
        at = f"y{number}"
    weight, bias = np.zeros((64, 3, 11, 11), np.float32), np.zeros(64, np.float32)
    arrays = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    value = helper.make_tensor_value_info
    made = helper.make_graph(nodes, "main", [value("x", 1, [1, 3, 224, 224])], [value(at, 1, None)], arrays)
    onnx.save(helper.make_model(made), tmp_path / "alexnet.onnx")
    with pytest.raises(UserError) as refused:
        weights_file.read(tmp_path / "alexnet.onnx")
    assert re.search(REFUSED["vision.safetensors"][1], str(refused.value))


def test_an_export_of_this_project_as_onnx_is_refused(small_run, tmp_path):
    done = command("export", small_run, "--to", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with pytest.raises(
        UserError, match="is not the paper's network and cannot be imported: it has no node such"
    ):
        weights_file.read(tmp_path / "alexnet.onnx")
