"""Imported weights: their logits against Caffe's forward pass in torch, and the files that are refused."""

import json
import pickle
import re
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from tests.launch import ROOT, run
from tests.trainer.in_process import command
from tests.weights import narrow_alexnet
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.interchange import weights_file

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
CAFFE = ("--bgr", "--lrn-k", "1", "--lrn-alpha", "2e-5")


def caffe(weights, x_BCHW, towers=1):
    """bvlc_alexnet's deploy.prototxt in evaluation, float64: blue, green, red, 227x227, no padding in conv1.

    Dropout does nothing then (Caffe's dropout layer scales in training). Its normalisation sums over the
    channels of the whole layer with k = 1 and alpha / n; torch's divides by n too. `towers` 2 sums over each
    half alone.
    """
    w = {name: torch.from_numpy(array).double() for name, array in weights.items()}

    def conv(layer, x, **options):
        return F.relu(F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], **options))

    def norm_pool(x):
        halves = [F.local_response_norm(half, 5, alpha=1e-4, beta=0.75, k=1) for half in x.chunk(towers, 1)]
        return F.max_pool2d(torch.cat(halves, 1), 3, 2)

    x = norm_pool(conv("conv1", x_BCHW, stride=4))
    x = norm_pool(conv("conv2", x, padding=2, groups=2))
    x = conv("conv4", conv("conv3", x, padding=1), padding=1, groups=2)
    x = F.max_pool2d(conv("conv5", x, padding=1, groups=2), 3, 2).flatten(1)
    for layer in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{layer}.weight"], w[f"{layer}.bias"]))
    return F.linear(x, w["fc8.weight"], w["fc8.bias"])


@pytest.fixture(scope="module")
def images():
    """Network input, red, green, blue, about -120..120."""
    return torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60


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


def test_caffes_weights_give_caffes_logits(caffe_npz, images, tiny_store, tmp_path):
    network, _ = imported(caffe_npz, tmp_path / "run", tiny_store, *CAFFE)
    # Caffe with 224 of its 227 pixels and zeros, and with a normalisation within each tower.
    x = F.pad(images, (0, 3, 0, 3)).flip(1).double()
    found = network.logits(images)
    assert difference(found, caffe(narrow_alexnet(), x, towers=2)) < 1e-5
    # Caffe's own normalisation crosses the border of the towers, which 4 of only 12 channels are next to.
    assert 1e-4 < difference(found, caffe(narrow_alexnet(), x)) < 0.3


def test_with_the_papers_dropout_the_logits_would_be_others(caffe_npz, images, tiny_store, tmp_path):
    network, _ = imported(caffe_npz, tmp_path / "run", tiny_store, *CAFFE, "--no-inverted-dropout")
    expected = caffe(narrow_alexnet(), F.pad(images, (0, 3, 0, 3)).flip(1).double(), towers=2)
    assert difference(network.logits(images), expected) > 0.3
    # The paper's dropout: outputs of fc6 and fc7 times 0.5, which is Caffe's network with halved weights.
    halved = {n: a / 2 if n in ("fc7.weight", "fc8.weight") else a for n, a in narrow_alexnet().items()}
    expected = caffe(halved, F.pad(images, (0, 3, 0, 3)).flip(1).double(), towers=2)
    assert difference(network.logits(images), expected) < 1e-5


def test_an_export_of_this_project_is_imported_unchanged(small_run, tiny_store, tmp_path):
    done = command("export", small_run, "--to", tmp_path, "--no-onnx", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for flag in ("--inverted-dropout", "--no-inverted-dropout"):
        network, _ = imported(tmp_path / "alexnet.safetensors", tmp_path / flag, tiny_store, flag)
        old = load(small_run, device="cpu")
        for before, after in zip(old.towers, network.towers, strict=True):
            assert torch.equal(before.fc7.weight, after.fc7.weight)
            assert torch.equal(before.fc8.weight, after.fc8.weight)


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
    expected = caffe(narrow_alexnet(), F.pad(images, (0, 3, 0, 3)).flip(1).double(), towers=2)
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
    expected = caffe(narrow_alexnet(), F.pad(images, (0, 3, 0, 3)).flip(1).double(), towers=2)
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
        "neither a safetensors file nor an .npz of plain arrays, .* allow_pickle=False",
    ),
    "array.npy": (
        lambda p, m: np.save(p, np.zeros((3, 3))),
        r"is one array of shape \[3, 3\] without a name",
    ),
    "fortran.npy": (lambda p, m: np.save(p, np.zeros((3, 4)).T), r"is one array of shape \[4, 3\]"),
    "cut.npy": (lambda p, m: p.write_bytes(b"\x93NUMPY\x01\x00\x76\x00{"), "or it is damaged"),
    "empty.npz": (lambda p, m: p.write_bytes(b""), "neither a safetensors file nor an .npz"),
    "empty.safetensors": (lambda p, m: p.write_bytes(b""), "neither a safetensors file nor an .npz"),
    "text.txt": (lambda p, m: p.write_text("weights"), "neither a safetensors file nor an .npz"),
    "noise.npz": (
        lambda p, m: p.write_bytes(bytes(range(256)) * 9),
        "neither a safetensors file nor an .npz",
    ),
    "zip.npz": (lambda p, m: write_zip(p, ["readme.txt"]), "neither a safetensors file nor an .npz"),
    "false.npz": (lambda p, m: write_zip(p, ["conv1.weight.npy"]), "neither a safetensors file nor an .npz"),
    "cut.npz": (lambda p, m: p.write_bytes(b"PK\x03\x04" + bytes(99)), "or it is damaged: File is not a zip"),
    "encrypted.npz": (lambda p, m: encrypted(p), "or it is damaged: .*encrypted"),
    "cut.safetensors": (
        lambda p, m: p.write_bytes(safetensors.torch.save(torchvisions())[:999]),
        "neither a safetensors file nor an .npz",
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
