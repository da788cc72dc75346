"""Exported files that are half there: a network or one sentence, whatever they hold."""

import contextlib
import copy
import json
import re
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage import VALUES, changed, damaged
from trainer.config import to_dict, with_changes
from trainer.errors import UserError
from trainer.evaluation import pretrained
from trainer.evaluation.pretrained import load
from trainer.interchange import weights_file
from trainer.recipes import AUTO
from trainer.runs.training_set import TrainingSet

SHAPES = {  # of one device: two towers of two filters a layer, four units, three classes
    "conv1.weight": (4, 3, 11, 11),
    "conv2.weight": (4, 2, 5, 5),
    "conv3.weight": (4, 4, 3, 3),
    "conv4.weight": (4, 2, 3, 3),
    "conv5.weight": (4, 2, 3, 3),
    "fc6.weight": (8, 4 * 6 * 6),
    "fc7.weight": (8, 8),
    "fc8.weight": (3, 8),
}
SHAPES |= {f"{name[:-7]}.bias": shape[:1] for name, shape in SHAPES.items()} | {"mean_image": (224, 224, 3)}
CONFIG = to_dict(with_changes(AUTO, filters=(2, 2, 2, 2, 2), hidden=4))
ABOUT = {
    "format": "two-tower-alexnet 1",
    "config": CONFIG,
    "classes": ["a", "b", "c"],
    "class_names": None,
    "image_size": 224,
    "fingerprint": "f",
    "state": {"step": 3, "epoch": 0.5, "seed": 0, "versions": {"torch": "2"}},
}


def header(about=ABOUT, shapes=SHAPES):
    """The header of a safetensors file of zeros."""
    found, place = {"__metadata__": {"about": about if isinstance(about, str) else json.dumps(about)}}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        found[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    return found


SIZE = max(entry["data_offsets"][1] for name, entry in header().items() if name != "__metadata__")


def write(path, head, size=SIZE):
    """Write a file of the format: 8 bytes with the header's length, the header, the bytes of the tensors."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alexnet.safetensors"


def read_all(path):
    """Read the file as a network, and as weights to import; the sentences of the errors."""
    sentences = []
    for read in (lambda path: load(path, device="cpu"), weights_file.read):
        try:
            read(path)
        except UserError as error:
            sentences.append(str(error))
    assert all(str(path) in sentence and len(sentence.splitlines()) == 1 for sentence in sentences)
    return sentences


def test_a_whole_file_is_a_network(path):
    write(path, header())
    network = load(path, device="cpu")
    assert (network.classes, network.state["step"]) == (("a", "b", "c"), 3)
    assert network.towers[1].conv1.weight.shape == (2, 3, 11, 11)
    assert weights_file.read(path)[1] == json.loads(json.dumps(ABOUT))


def within(about, *keys, value):
    about = copy.deepcopy(about)
    inner = about
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return about


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (["classes"], [], "it has 0 classes"),
        (["classes"], "abc", 'classes = "abc"'),
        (["classes"], [1, 2, 3], "classes = 1, which is not text"),
        (["classes"], ["a", "b"], "fc8.bias of shape [3], and the network has [2]"),
        (["class_names"], ["A"], "it has 3 classes and 1 names of them"),
        (["class_names"], {}, "which is not a list of text or null"),
        (["state"], None, "state = null, which is not an object"),
        (["state", "step"], "3", 'state.step = "3"'),
        (["fingerprint"], 3, "fingerprint = 3"),
        (["config"], None, "config = null"),
        (["config", "network"], [], "network = a list"),
        (["config", "network", "lrn_size"], -1, "--lrn-size"),
        (["config", "network", "lrn_size"], "5", 'network.lrn_size = "5"'),
        (["config", "network", "hidden"], -4, "--hidden"),
        (["config", "network", "hidden"], True, "network.hidden = true"),
        (["config", "network", "hidden"], 8, "fc6.bias of shape [8], and the network has [16]"),
        (["config", "network", "hidden"], 10**20, "--hidden must be at least 1 and at most 65,536"),
        (["config", "network", "filters"], [2, 2], "network.filters = a list"),
        (["config", "network", "towers"], 1, "conv1.bias of shape [4], and the network has [2]"),
        (["config", "network", "towers"], 3, "which is not 1 or 2"),
        (["config", "network", "width"], 3, "unknown key: network.width"),
        (["config", "augment", "divisor"], None, "augment.divisor = null"),
    ],
)
def test_each_damage_of_the_settings_has_a_sentence(keys, value, words, path):
    write(path, header(within(ABOUT, *keys, value=value)))
    with pytest.raises(UserError, match=re.escape(words)) as error:
        load(path, device="cpu")
    assert str(path) in str(error.value)
    read_all(path)


@pytest.mark.parametrize("name", ["conv1.weight", "fc8.weight", "fc8.bias", "mean_image"])
@pytest.mark.parametrize("shape", [None, (), (0,), (5,), (2, 3), (4, 3, 11, 1)])
def test_a_tensor_of_another_shape_has_a_sentence(name, shape, path):
    shapes = {**SHAPES, name: shape}
    if shape is None:
        del shapes[name]
    head = header(shapes=shapes)
    write(path, head, max(entry["data_offsets"][1] for key, entry in head.items() if key != "__metadata__"))
    with pytest.raises(UserError, match=f"{name}|it has no mean image"):
        load(path, device="cpu")
    read_all(path)


@pytest.mark.parametrize("dtype", ["I32", "BOOL", "F8_E4M3", "U32", "F64", "C64", "F4", "F6_E2M3", "none", 3])
def test_a_type_of_tensors_is_read_or_has_a_sentence(dtype, path):
    head = header()
    for entry in head.values():
        if "dtype" in entry:
            entry["dtype"] = dtype
    write(path, head)
    read_all(path)


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "null", "3", "{}", '{"config": ', "[" * 100_000, '"\\ud800"']
)
def test_a_header_without_settings_is_no_export(text, path):
    write(path, header(text))
    with pytest.raises(
        UserError, match=r"was not written by python -m trainer\.export, or is damaged \(its header"
    ):
        load(path, device="cpu")
    assert weights_file.read(path)[1] is None  # another program's may be imported


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"__metadata__": 3}'])
def test_a_file_without_a_header_has_a_sentence(head, path):
    write(path, head)
    assert len(read_all(path)) == 2


same = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@same
@given(changed(ABOUT))
def test_whatever_the_settings_are_there_is_a_network_or_a_sentence(path, about):
    write(path, header(about))
    read_all(path)


@same
@given(changed(header()))
def test_whatever_the_header_is_there_is_a_network_or_a_sentence(path, head):
    write(path, head)
    read_all(path)


@same
@given(damaged(json.dumps(ABOUT | {"config": {}}).encode()), VALUES)
def test_a_checkpoints_training_set_is_read_or_is_a_sentence(tmp_path, text, value):
    shapes = {"mean_image": (8, 8, 3)}
    for about in (text.decode(errors="replace"), value):
        write(tmp_path / "training_set.safetensors", header(about, shapes), 4 * 8 * 8 * 3)
        with contextlib.suppress(UserError):
            found = TrainingSet.read(tmp_path)
            assert found is not None
            assert all(isinstance(name, str) for name in found.classes)


@same
@given(st.data())
def test_whatever_an_npz_holds_it_is_read_or_is_a_sentence(tmp_path, data):
    path = tmp_path / "weights.npz"
    np.savez(path, **{name: np.zeros((1, 2)) for name in ("conv1.weight", "fc8.bias")})
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    with pytest.raises(UserError):
        weights_file.read(path)
    for header in ("{", "{'descr': '<f8', 'shape': (9" + "9" * 30 + ",)}", "(" * 500, "{'descr': 3}"):
        (tmp_path / "one.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
        )
        with pytest.raises(UserError):
            weights_file.read(tmp_path / "one.npy")


def test_a_tower_that_its_manifest_does_not_name_is_one_sentence(path):
    with pytest.raises(UserError, match=r"tower_b\.safetensors is missing; use another checkpoint"):
        pretrained._parameters(path.with_name("tower_b.safetensors"))
