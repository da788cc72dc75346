"""Imported weights: their logits against Caffe's forward pass in torch, and the files that are refused."""

import json
import pickle
import re
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.launch import ROOT, run
from tests.trainer.in_process import command
from tests.trainer.interchange.caffe import LAYERS, outputs
from tests.weights import narrow_alexnet
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.interchange import weights_file

CAFFE = ("--like", "bvlc_alexnet")


def caffe(weights, images, order="relu-lrn-pool"):
    """Caffe's logits of the network input, whose channels are red, green, blue."""
    return outputs(weights, images.flip(1).double(), order)["fc8"]


@pytest.fixture(scope="module")
def images():
    """Network input, red, green, blue, about -120..120."""
    return torch.randn(4, 3, 227, 227, generator=torch.Generator().manual_seed(0)) * 60


def imported(file, folder, store, *flags):
    done = command("import_weights", file, "--run", folder, "--store", store, *flags, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return load(folder, device="cpu"), done.stdout


def difference(found, expected):
    """The largest difference relative to the largest expected value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def caffe_npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("caffe") / "caffe.npz"
    np.savez(path, **narrow_alexnet())
    return path


@pytest.mark.parametrize(
    ("like", "order"), [("bvlc_alexnet", "relu-lrn-pool"), ("bvlc_reference_caffenet", "relu-pool-lrn")]
)
def test_caffes_weights_give_caffes_logits(like, order, caffe_npz, images, tiny_store, tmp_path):
    network, output = imported(caffe_npz, tmp_path / "run", tiny_store, "--like", like)
    assert difference(network.logits(images), caffe(narrow_alexnet(), images, order)) < 1e-5
    assert "channels: conv1 read blue, green, red (assumed: all of Caffe's networks do)" in output


def test_flags_give_the_settings_where_the_network_has_no_name(caffe_npz, images, tiny_store, tmp_path):
    sizes = ("--crop-size", "227", "--conv1-pad", "0", "--channels", "bgr")
    flags = (*sizes, "--lrn-k", "1", "--lrn-alpha", "2e-5", "--lrn-over", "both")
    network, _ = imported(caffe_npz, tmp_path / "run", tiny_store, *flags, "--no-inverted-dropout")
    # The paper's dropout: outputs of fc6 and fc7 times 0.5, which is Caffe's network with halved weights.
    halved = {n: a / 2 if n in ("fc7.weight", "fc8.weight") else a for n, a in narrow_alexnet().items()}
    assert difference(network.logits(images), caffe(halved, images)) < 1e-5
    network, _ = imported(caffe_npz, tmp_path / "inverted", tiny_store, *flags)
    assert difference(network.logits(images), caffe(narrow_alexnet(), images)) < 1e-5


def test_flags_that_the_named_network_settles_are_refused(caffe_npz, tiny_store, tmp_path):
    words = (caffe_npz, "--run", tmp_path / "run", "--store", tiny_store, *CAFFE)
    done = command("import_weights", *words, "--lrn-k", "3", "--no-inverted-dropout", cwd=ROOT)
    assert done.returncode == 1
    assert "like bvlc_alexnet, which settles this: leave out --lrn-k, --no-inverted-dropout." in done.stderr


def test_an_export_of_this_project_is_imported_unchanged(small_run, tiny_store, tmp_path):
    done = command("export", small_run, "--to", tmp_path, "--no-onnx", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for number, flags in enumerate([("--store", tiny_store), ()]):
        run = tmp_path / str(number)
        done = command("import_weights", tmp_path / "alexnet.safetensors", "--run", run, *flags, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        old, network = load(small_run, device="cpu"), load(run, device="cpu")
        for before, after in zip(old.towers, network.towers, strict=True):
            assert torch.equal(before.fc7.weight, after.fc7.weight)
            assert torch.equal(before.fc8.weight, after.fc8.weight)
        assert network.classes == old.classes
        assert np.array_equal(network.mean_SS3, old.mean_SS3)


@pytest.mark.parametrize("flag", ["--no-inverted-dropout", "--mean=1", "--channels=bgr"])
def test_an_exports_own_settings_are_not_overruled(flag, small_run, tmp_path):
    done = command("export", small_run, "--to", tmp_path, "--no-onnx", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    done = command(
        "import_weights", tmp_path / "alexnet.safetensors", "--run", tmp_path / "run", flag, cwd=ROOT
    )
    assert done.returncode == 1
    assert "is an export of this project, which settles this: leave out --" in done.stderr


def remedy(path, tmp_path):
    """Run the command that the sentence ends with, as it stands there; returns the file that it wrote."""
    with pytest.raises(UserError) as refused:
        weights_file.read(path)
    typed = str(refused.value)[str(refused.value).index("python -c") :]
    done = run("sh", "-c", typed, cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    return done.args[2].split()[-1].strip("'")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_torch_save_is_imported_after_the_command_in_the_message(
    nested, legacy, images, tiny_store, tmp_path
):
    state = {name: torch.from_numpy(array) for name, array in narrow_alexnet().items()}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": state} if nested else state, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        UserError, match=r"written by torch.save: it is a pickle, and a pickle can run any code"
    ):
        weights_file.read(path)
    network, _ = imported(remedy(path, tmp_path), tmp_path / "run", tiny_store, *CAFFE)
    expected = caffe(narrow_alexnet(), images)
    assert difference(network.logits(images), expected) < 1e-5


def test_a_pickled_npy_is_imported_after_the_command_in_the_message(images, tiny_store, tmp_path):
    """bvlc_alexnet.npy: a dictionary of [weights, biases], convolutions [H, W, I, O], layers [I, O]; there
    fc6 reads a row of channels for each place, since TensorFlow flattens [H, W, C]."""
    weights, theirs = narrow_alexnet(), {}
    for layer in LAYERS:
        w = weights[f"{layer}.weight"]
        if layer == "fc6":  # each input's place in [C, H, W], written in the order of [H, W, C]
            w = np.stack([w[:, c * 36 + y * 6 + x] for y in range(6) for x in range(6) for c in range(16)])
        elif layer.startswith("fc"):
            w = w.T
        else:
            w = np.moveaxis(w, (0, 1), (3, 2))
        theirs[layer] = [w.astype(np.float32), weights[f"{layer}.bias"].astype(np.float32)]
    path = tmp_path / "bvlc alexnet.npy"  # with a space, which the command must quote
    np.save(path, theirs, allow_pickle=True)
    remedy(path, tmp_path)
    network, _ = imported(tmp_path / "bvlc alexnet.npz", tmp_path / "run", tiny_store, *CAFFE)
    expected = caffe(narrow_alexnet(), images)
    assert difference(network.logits(images), expected) < 1e-5


class Danger:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def torchvisions():
    names = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + [f"classifier.{i}" for i in (1, 4, 6)]
    return {f"{n}.{k}": torch.zeros(64, 3, 11, 11) for n in names for k in ("weight", "bias")}


def write_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"hello")


def encrypted(path):
    np.savez(path, a=np.zeros(3))
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag of the member, and of its entry in the directory
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def changed_npz(path, **changes):
    arrays = narrow_alexnet() | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def changed_safetensors(path, **changes):
    arrays = narrow_alexnet() | changes
    safetensors.torch.save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def object_npz(path, marker):
    changed_npz(path, **{"fc8.bias": np.array([Danger(marker)])})


REFUSED = {
    "pickle.pth": (lambda p, m: p.write_bytes(pickle.dumps(Danger(m))), "was written by torch.save"),
    "pickle.pkl": (
        lambda p, m: p.write_bytes(pickle.dumps(Danger(m))),
        "is a pickle, and a pickle can run any",
    ),
    "torch.npz": (lambda p, m: torch.save({"a": torch.zeros(1)}, p), "was written by torch.save"),
    "torch.safetensors": (lambda p, m: torch.save({}, p), r"torch-converted.safetensors"),
    "object.npy": (
        lambda p, m: np.save(p, np.array([Danger(m)]), allow_pickle=True),
        "a pickle inside an .npy",
    ),
    "object.npz": (
        object_npz,
        "an .npz of plain arrays, or .* allow_pickle=False",
    ),
    "array.npy": (
        lambda p, m: np.save(p, np.zeros((3, 3))),
        r"is one array of shape \[3, 3\] without a name",
    ),
    "fortran.npy": (lambda p, m: np.save(p, np.zeros((3, 4)).T), r"is one array of shape \[4, 3\]"),
    "cut.npy": (lambda p, m: p.write_bytes(b"\x93NUMPY\x01\x00\x76\x00{"), "or it is damaged"),
    "empty.npz": (
        lambda p, m: p.write_bytes(b""),
        "is none of a .caffemodel, an .onnx, a safetensors file, or an .npz",
    ),
    "empty.safetensors": (
        lambda p, m: p.write_bytes(b""),
        "is none of a .caffemodel, an .onnx, a safetensors file, or an .npz",
    ),
    "text.txt": (
        lambda p, m: p.write_text("weights"),
        "is none of a .caffemodel, an .onnx, a safetensors file, or an .npz",
    ),
    "noise.npz": (
        lambda p, m: p.write_bytes(bytes(range(256)) * 9),
        "is none of a .caffemodel, an .onnx, a safetensors file, or an .npz",
    ),
    "zip.npz": (
        lambda p, m: write_zip(p, ["readme.txt"]),
        "is none of a .caffemodel, an .onnx, a safetensors file, or an .npz",
    ),
    "false.npz": (
        lambda p, m: write_zip(p, ["conv1.weight.npy"]),
        "is none of a .caffemodel, an .onnx, a safetensors file, or an .npz",
    ),
    "cut.npz": (lambda p, m: p.write_bytes(b"PK\x03\x04" + bytes(99)), "or it is damaged: File is not a zip"),
    "encrypted.npz": (lambda p, m: encrypted(p), "or it is damaged: .*encrypted"),
    "cut.safetensors": (
        lambda p, m: p.write_bytes(safetensors.torch.save(torchvisions())[:999]),
        "is none of a .caffemodel, an .onnx, a safetensors file, or an .npz",
    ),
    "vision.safetensors": (
        lambda p, m: safetensors.torch.save_file(torchvisions(), p),
        "torchvision's alexnet, which is another network and cannot be imported: it has 64",
    ),
    "other.safetensors": (
        lambda p, m: safetensors.torch.save_file({f"layer{i}": torch.zeros(1) for i in range(99)}, p),
        r"missing: \['conv1.bias', .* and 12 more, unknown: \['layer0', .* and 95 more\.",
    ),
    "words.npz": (lambda p, m: changed_npz(p, **{"fc8.bias": np.array(["a"])}), "fc8.bias is of str32, and"),
    **{
        f"{dtype}.{kind}": (
            lambda p, m, dtype=dtype, write=write: write(p, **{"fc8.bias": np.zeros(10, dtype)}),
            f"fc8.bias is of {dtype}, and weights must be of float32, .*: multiply quantised weights",
        )
        for dtype in ("int8", "uint8", "int64", "bool", "complex64")
        for kind, write in (("npz", changed_npz), ("safetensors", changed_safetensors))
    },
    "overflow.npz": (
        lambda p, m: changed_npz(p, **{"fc8.bias": np.full(10, 1e300)}),
        "fc8 holds .* not a finite",
    ),
    "nan.npz": (
        lambda p, m: changed_npz(p, **{"fc8.bias": np.full(10, np.nan)}),
        "fc8 holds .* not a finite",
    ),
    "hwio.npz": (
        lambda p, m: changed_npz(p, **{"conv1.weight": np.zeros((11, 11, 3, 12))}),
        r"conv1.weight has the shape \[11, 11, 3, 12\] .* must be \[filters, channels, height, width\]",
    ),
    "transposed.npz": (
        lambda p, m: changed_npz(p, **{"fc6.weight": np.zeros((576, 64))}),
        r"fc6.weight has the",
    ),
    "scalar.npz": (
        lambda p, m: changed_npz(p, **{"conv2.weight": np.zeros(())}),
        r"conv2.weight has the shape",
    ),
    "flat.npz": (
        lambda p, m: changed_npz(p, **{"fc7.weight": np.zeros(64)}),
        r"fc7.weight has the shape \[64\]",
    ),
    "narrow.npz": (
        lambda p, m: changed_npz(p, **{"fc8.weight": np.zeros((10, 1))}),
        r"fc8.weight .* \[10, 1\]",
    ),
    "none.npz": (
        lambda p, m: changed_npz(p, **{"conv1.weight": np.zeros((0, 3, 11, 11)), "conv1.bias": np.zeros(0)}),
        r"conv1.weight has the shape \[0, 3",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_a_clear_error_and_never_unpickled(name, tmp_path):
    write, sentence = REFUSED[name]
    path, marker = tmp_path / name, tmp_path / "was unpickled"
    write(path, marker)
    with pytest.raises(UserError, match=sentence) as refused:
        weights_file.read(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pickle.pth", "object.npy", "cut.npz", "vision.safetensors"])
def test_the_command_ends_with_that_error_and_makes_no_run(name, tiny_store, tmp_path):
    REFUSED[name][0](tmp_path / name, tmp_path / "was unpickled")
    done = command("import_weights", name, "--run", "run", "--store", tiny_store, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(REFUSED[name][1], done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("about", ["by hand", "[]", '{"author": "me"}'])
def test_a_header_of_another_program_is_no_export(about, tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in narrow_alexnet().items()}
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors", {"about": about})
    assert weights_file.read(tmp_path / "w.safetensors")[1] is None


@pytest.mark.parametrize("config", [{"network": {"lrn_size": -1}}, {"network": 3}, [], {"model": "alexnet"}])
def test_an_export_that_this_version_cannot_read_is_a_clear_error(config, tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in narrow_alexnet().items()}
    safetensors.torch.save_file(
        tensors, tmp_path / "w.safetensors", {"about": json.dumps({"config": config})}
    )
    with pytest.raises(UserError, match="exported by another version, or is damaged: "):
        weights_file.read(tmp_path / "w.safetensors")
