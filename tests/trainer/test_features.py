"""Features of image files: each format read by its own library, and compared with the network's."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from safetensors import safe_open

from tests.launch import exit_code
from tests.preprocess.helpers import draw
from tests.trainer.in_process import command
from trainer import load
from trainer.commands import feature_files
from trainer.commands.feature_files import FeatureFile
from trainer.errors import UserError
from trainer.evaluation.layers import LAYERS

FORMATS = (".npz", ".safetensors", ".zarr")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of five images in two folders, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for name in ("a.png", "b.png", "d.png", "more/é.png", "more/f.jpg"):
        draw(len(name), 300, 240).save(folder / name)
    (folder / "c.png").write_bytes(b"nothing")
    return folder


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file of features, and the names under `files`."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    if path.suffix == ".zarr":
        return {name: array[:] for name, array in zarr.open_group(path, mode="r").arrays()}
    with safe_open(path, "np") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return found | {"files": np.array(json.loads(file.metadata()["files"]))}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_the_networks_features_and_unreadable_files_are_left_out(
    suffix, dtype, photographs, small_run, tmp_path
):
    target = tmp_path / "new" / f"features{suffix}"
    flags = ("--layers", "conv5", "fc6.linear", "--to", target, "--dtype", dtype, "--batch-size", "2")
    flags += () if dtype == "float32" else ("--ten-crop",)
    done = command("features", photographs, "--model", small_run, *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {photographs}/c.png has no known image format")
    assert done.stderr.count("\n") == 1
    assert done.stdout.splitlines() == [
        f"{target}: 5 images",
        f"  conv5 [5, 16, 13, 13] {dtype}",
        f"  fc6.linear [5, 64] {dtype}",
    ]
    found = read(target)
    paths = [photographs / name for name in ("a.png", "b.png", "d.png", "more/f.jpg", "more/é.png")]
    assert list(found.pop("files")) == list(map(str, paths))
    expected = load(small_run).features(paths, ("conv5", "fc6.linear"), ten_crop=dtype == "float16")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (dtype, array.shape)
        tolerance = 1e-3 if dtype == "float16" else 1e-6
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=1e-5 * np.abs(array).max())
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_row_for_a_file_that_is_named_twice(photographs, small_run, tmp_path):
    twice = (photographs / "a.png", photographs / "a.png")
    done = command("features", *twice, "--model", small_run, "--to", "x.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = read(tmp_path / "x.npz")["fc7"]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--layers", "fc7", "fc9"), f"fc9 is not among this network's layers: {', '.join(LAYERS)}."),
        (("--layers",), f"No layer is named; there are: {', '.join(LAYERS)}."),
        (("--to", "x.csv"), "x.csv must end in .npz or .safetensors or .zarr: the name says the format."),
        (("--to", "there.zarr"), "there.zarr cannot be written: Is a directory. Name another place."),
        (("--to", "file.zarr"), "file.zarr exists already: remove it, or name another place."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_name_is_refused_before_the_work(flags, sentence, tmp_path):
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "file.zarr").touch()
    done = command("features", "no-image.jpg", *flags, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")


def test_where_no_image_can_be_read_nothing_is_written(photographs, small_run, tmp_path):
    broken = photographs / "c.png"
    done = command("features", broken, "--model", small_run, "--to", "x.zarr", cwd=tmp_path)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {broken} has no known image format")
    assert second == "error: None of the images can be read: nothing is written."
    assert list(tmp_path.iterdir()) == []


def test_help_has_a_line_for_each_layer(capsys):
    from trainer import features

    assert exit_code(lambda: features.main(["--help"])) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["fc7", "4096", "after ReLU"] in lines
    assert LAYERS.keys() <= {line[0] for line in lines if line}


@pytest.mark.parametrize("suffix", FORMATS)
def test_memory_is_flat(suffix, tmp_path, monkeypatch):
    """64 MB of rows, 1 MB at a time."""
    monkeypatch.setattr(feature_files, "PIECE", 2**20)
    random = np.random.default_rng(0)
    tracemalloc.start()
    try:
        with FeatureFile(tmp_path / f"x{suffix}", {"fc7": (2**16,), "fc8": (3, 5)}, "float32") as target:
            for batch in range(64):
                rows = random.random((4, 2**16), np.float32)
                names = [Path(f"{batch}/{number}.jpg") for number in range(4)]
                target.append(names, {"fc7": rows, "fc8": rows[:, :15].reshape(4, 3, 5)})
            target.write()
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()
    found = read(tmp_path / f"x{suffix}")
    assert found["fc7"].shape == (256, 2**16)
    np.testing.assert_array_equal(found["fc7"][-4:], rows)
    np.testing.assert_array_equal(found["fc8"], found["fc7"][:, :15].reshape(256, 3, 5))
    assert found["files"][[0, -1]].tolist() == ["0/0.jpg", "63/3.jpg"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_are_kept_that_are_no_utf8_or_have_quotes(suffix, tmp_path):
    names = [Path("caf\udce9.jpg"), Path('a "b"\n\\c.jpg'), Path("日本.jpg")]
    with FeatureFile(tmp_path / f"x{suffix}", {"fc7": (1,)}, "float32") as target:
        target.append(names, {"fc7": np.zeros((3, 1), np.float32)})
        target.write()
    assert read(tmp_path / f"x{suffix}")["files"].tolist() == ["caf\\xe9.jpg", str(names[1]), "日本.jpg"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_failure_leaves_the_old_file_and_nothing_else(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"x{suffix}"
    if suffix != ".zarr":
        path.write_text("old")
    monkeypatch.setattr(feature_files.Rows, "pieces", lambda rows: iter([b"1", 1]))
    with FeatureFile(path, {"fc7": (1,)}, "float32") as target:
        target.append([Path("a")], {"fc7": np.zeros((1, 1), np.float32)})
        with pytest.raises((TypeError, ValueError)):
            target.write()
    assert [found.read_text() for found in tmp_path.iterdir()] == ["old"] * (suffix != ".zarr")


def test_numbers_beyond_float16_are_refused(tmp_path):
    with (
        pytest.raises(UserError, match=r"fc7 has outputs of 7e\+04, and float16 ends at 65504: leave out"),
        FeatureFile(tmp_path / "x.npz", {"fc7": (1,)}, "float16") as target,
    ):
        target.append([Path("a")], {"fc7": np.full((1, 1), 7e4, np.float32)})


def test_names_that_no_header_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "LONGEST_HEADER", 100)
    with FeatureFile(tmp_path / "x.safetensors", {"fc7": (1,)}, "float32") as target:
        target.append([Path("a" * 100)], {"fc7": np.zeros((1, 1), np.float32)})
        with pytest.raises(UserError, match=r"cannot hold the names of 1 files; name a \.zarr with --to"):
            target.write()
    assert list(tmp_path.iterdir()) == []
