"""The reader of protobuf against Google's own library, and what damaged files do to it."""

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.interchange import caffe
from tests.trainer.interchange.zoo import graph
from trainer.errors import UserError
from trainer.interchange import mean_image, weights_file
from trainer.interchange.wire import MOST_FIELDS, Message, WireError


def message(data):
    return Message(memoryview(data))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), st.lists(st.floats(width=32, allow_nan=False)))
def test_numbers_are_those_that_googles_library_wrote(dims, data):
    made = caffe.MESSAGES["BlobProto"](data=data)
    made.shape.dim.extend(dims)
    read = message(made.SerializeToString())
    assert read.message(7).integers(1) == dims
    assert read.floats(5).tolist() == data


def test_fields_that_are_not_packed_or_in_pieces_are_joined():
    half = caffe.MESSAGES["BlobProto"](data=[1, 2]).SerializeToString()
    one = b"\x2d" + np.float32(3).tobytes()  # field 5, wire type 5: an element by itself
    assert message(half + one + half).floats(5).tolist() == [1, 2, 3, 1, 2]
    assert message(b"\x08\x05\x0a\x02\x06\x07").integers(1) == [5, 6, 7]


def test_a_float_is_its_shortest_decimal():
    assert message(caffe.MESSAGES["LRNParameter"](alpha=1e-4).SerializeToString()).number(2, 1.0) == 1e-4


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\x0a\x05abc", "it ends 2 bytes too early, within field 1"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fabc", "too early"),
        (b"\x09abc", "it ends 5 bytes too early, within field 1"),
        (b"\x08\x80", "it ends within a number"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x0b", "a field 1 of wire type 3"),
        (b"\x00\x00", "a field 0 of wire type 0"),
        (b"\x08\x01" * (MOST_FIELDS + 1), "more than 100,000 fields"),
    ],
)
def test_damage_is_named(data, sentence):
    with pytest.raises(WireError, match=sentence):
        message(data)


def test_a_field_of_another_type_is_named():
    read = message(b"\x08\x01\x12\x03abc")
    with pytest.raises(WireError, match="field 1 is an integer and should be bytes"):
        read.texts(1)
    with pytest.raises(WireError, match="field 2 has 3 bytes, which are no whole numbers"):
        read.floats(2)
    with pytest.raises(WireError, match="a name has more than 1,000 characters"):
        message(b"\x0a\xe9\x07" + b"x" * 1001).text(1)
    with pytest.raises(WireError, match="an array of more than 100,000 integers"):
        message(b"\x0a\x80\x80\x08" + b"\1" * 2**17).integers(1)


@functools.cache
def whole(kind):
    """A small file of each kind: of layers that have two filters and two units."""
    shapes = {"conv1": (2, 3, 11, 11), "conv2": (2, 1, 5, 5), "conv3": (2, 2, 3, 3), "conv4": (2, 1, 3, 3)}
    shapes |= {"conv5": (2, 1, 3, 3), "fc6": (2, 72), "fc7": (2, 2), "fc8": (2, 2)}
    weights = {f"{layer}.weight": np.ones(shape, np.float32) for layer, shape in shapes.items()}
    weights |= {f"{layer}.bias": np.ones(2, np.float32) for layer in shapes}
    if kind == "onnx":
        return graph(weights=weights)[0].SerializeToString()
    if kind == "mean":
        return caffe.blob(np.ones((1, 3, 16, 16)), old_shape=True).SerializeToString()
    return caffe.net(weights, caffe.train_val(), v1=kind == "v1").SerializeToString()


@st.composite
def damaged(draw, data):
    """Bytes cut, put in, or changed; most of a file is weights, so some damages are near its ends."""
    place = draw(st.integers(0, len(data) - 1) | st.integers(0, 400) | st.integers(-2000, -1))
    place %= len(data)
    kind = draw(st.sampled_from(["cut", "insert", "change", "double"]))
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=4)) + data[place:]
    if kind == "double":
        return data[:place] + data[draw(st.integers(0, place)) :]
    return data[:place] + draw(st.binary(min_size=1, max_size=2)) + data[place + 1 :]


def refusal(read):
    """The sentence of a UserError; empty where there is none. Any other error is raised."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["v1", "new", "onnx"])
def test_a_damaged_network_is_read_or_is_one_sentence(kind, tmp_path):
    path = tmp_path / ("w.onnx" if kind == "onnx" else "w.caffemodel")
    path.write_bytes(whole(kind))
    assert weights_file.read(path).weights["fc8.bias"].tolist() == [1, 1]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged(whole(kind)))
    def check(data):
        path.write_bytes(data)
        output = refusal(lambda: weights_file.read(path))
        assert not output or (str(path) in output and len(output) < 2500 and "\n" not in output)

    check()


def test_a_damaged_mean_image_is_read_or_is_one_sentence(tmp_path):
    path = tmp_path / "mean.binaryproto"

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged(whole("mean")))
    def check(data):
        path.write_bytes(data)
        assert "\n" not in refusal(lambda: mean_image.read([str(path)], 16, bgr=True))

    check()


@pytest.mark.parametrize("suffix", [".caffemodel", ".onnx"])
def test_a_download_that_broke_off_is_called_damaged(suffix, tmp_path):
    data = whole("onnx" if suffix == ".onnx" else "new")
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data[:-1000])
    with pytest.raises(UserError, match=r"or it is damaged: it ends .* bytes too early"):
        weights_file.read(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="or it is damaged: it is empty"):
        weights_file.read(path)


def test_a_pointer_of_git_lfs_and_a_mean_image_are_named(tmp_path):
    path = tmp_path / "bvlcalexnet-12.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 244\n")
    with pytest.raises(UserError, match="is a pointer of Git LFS, not the file itself"):
        weights_file.read(path)
    path.write_bytes(whole("mean"))
    with pytest.raises(UserError, match=r"is a mean image of Caffe: import the .caffemodel, with --mean"):
        weights_file.read(path)
