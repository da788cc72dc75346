"""The numbers in figures against hand counts, and labels that are neither cut nor overlap."""

import copy
import dataclasses
import json
import shutil

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from tests.launch import ROOT
from tests.trainer.in_process import command
from trainer import figures
from trainer.data.batches import open_data
from trainer.evaluation.pretrained import load
from trainer.figures import (
    activations,
    confusion,
    curves,
    drawing,
    filters,
    neighbours,
    responses,
    strongest,
    style,
    units,
)
from trainer.figures.run_data import RunData
from trainer.runs import run_folder
from trainer.runs.log import read_log


@pytest.fixture(scope="module")
def small_run(small_run, tmp_path_factory):
    """A copy, in which figures are drawn."""
    return shutil.copytree(small_run, tmp_path_factory.mktemp("figures") / "small")


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    """The small run's network in one file, far from its run and store."""
    folder = tmp_path_factory.mktemp("exported")
    done = command("export", small_run, "--to", folder / "files", "--no-onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "files" / "alexnet.safetensors").rename(folder / "alexnet.safetensors")


def test_a_run_ends_with_all_its_figures(small_run):
    for name in figures.NAMES:
        with Image.open(small_run / "figures" / f"{name}.png", formats=("PNG",)) as image:
            assert image.width == 1400, name
            assert np.asarray(image.convert("L")).std() > 10, f"{name} is blank"
        assert (small_run / "figures" / f"{name}.svg").read_text().rstrip().endswith("</svg>")


@pytest.fixture(scope="module")
def data(small_run, tiny_store):
    """The small run with class names as long as ImageNet's."""
    network = load(small_run, device="cpu")
    names = tuple(f"{name} of the long-haired pointing kind, and so on" for name in network.class_names)
    network = dataclasses.replace(network, class_names=names)
    return RunData(network, open_data(tiny_store), read_log(small_run / run_folder.LOG), 60)


@pytest.mark.parametrize(
    ("name", "layer"),
    [*((name, None) for name in figures.NAMES), ("strongest", "conv5"), ("strongest", "fc8")],
)
def test_no_label_is_cut_or_overlaps_another(name, layer, data, monkeypatch):
    drawn, data = {}, dataclasses.replace(data, layer=layer)
    draw = Text.draw

    def record(self, renderer):
        draw(self, renderer)
        drawn[self] = None

    monkeypatch.setattr(Text, "draw", record)
    with matplotlib.rc_context(style.SETTINGS):
        figure = drawing.DRAWERS[name](data)
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        texts = [text for text in drawn if text.get_visible() and text.get_text().strip()]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    assert boxes
    for text, box in boxes:
        assert box.x0 >= 0 <= box.y0, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for index, (text, box) in enumerate(boxes):
        for other, its in boxes[index + 1 :]:
            slanted = name == "confusion"  # the boxes of slanted names overlap, the names do not
            assert slanted or not box.overlaps(its), f"{text!r} and {other!r}"


def test_zero_is_grey_and_filters_are_arranged_row_by_row():
    weights = np.zeros((17, 3, 2, 2), np.float32)
    weights[0, 0, 1, 0] = 4  # red, in the first filter's lower left
    weights[0, 2, 1, 0] = -2
    weights[16, 1, 0, 1] = -3  # the 17th begins a new row
    page = filters.grid(weights)
    assert page.shape == (5, 16 * 3 - 1, 3)
    np.testing.assert_array_equal(page[1, 0], [1, 0.5, 0.25])
    np.testing.assert_array_equal(page[0, 0], [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(page[3, 1], [0.5, 0, 0.5])
    np.testing.assert_array_equal(page[:, 2], 1)  # white between them


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def with_conv1(network, weights):
    """The network with other filters of conv1, the same ones in both towers."""
    towers = copy.deepcopy(network.network)
    for tower in towers.towers:
        tower.conv1.weight.data.copy_(torch.from_numpy(weights))
    return dataclasses.replace(network, network=towers)


@pytest.mark.parametrize("formed", [True, False])
def test_filters_that_have_not_formed_are_said_to_be_noise(formed, data):
    weights = np.random.default_rng(0).standard_normal((6, 3, 11, 11)).astype(np.float32)
    if formed:
        weights[:] = weights[:, :, :1]  # stripes down: as many neighbours are equal as are independent
    figure = filters.draw(dataclasses.replace(data, network=with_conv1(data.network, weights)))
    assert any("have not formed" in text for text in texts(figure)) != formed
    assert {"Tower a", "Tower b", "mean correlation"} <= {*texts(figure)}


def test_the_filters_of_each_tower_are_below_its_measures(data):
    weights = data.network.towers[0].conv1.weight.numpy()
    figure = filters.draw(data)
    image = figure.axes[0].get_images()[0].get_array()
    page = filters.grid(weights)
    each = image.shape[0] // page.shape[0]
    assert each >= 5
    np.testing.assert_array_equal(image[each // 2 :: each, each // 2 :: each], page)


def test_the_chart_has_the_means_of_each_tower(data):
    means, shares = (axes.get_lines() for axes in activations.draw(data).axes)
    found = data.network.features(data.store.val.read(np.arange(30)), ("conv1", "conv4"))
    for layer, place in (("conv1", 0), ("conv4", 3)):
        for tower, half in enumerate(np.split(found[layer].astype(float), 2, axis=1)):
            assert means[tower].get_ydata()[place] == pytest.approx(half.mean(), rel=1e-3)
            assert shares[tower].get_ydata()[place] == pytest.approx(100 * (half > 0).mean(), rel=1e-3)


def test_a_patch_is_what_the_filter_sees_where_it_responds_most(data):
    chosen = units.most_selective(data, "conv1", 4)
    assert [unit // 6 for unit in chosen] == [0, 0, 1, 1]  # as many of each tower
    images = data.store.val.read(np.arange(30))
    for number, unit in zip(chosen, units.units(data, "conv1", chosen), strict=True):
        tower = data.network.towers[number // 6]
        x = data.network.inputs(images, (16, 16, False)).double().numpy()
        w, bias = tower.conv1.weight.double().numpy(), float(tower.conv1.bias[number % 6])
        windows = np.lib.stride_tricks.sliding_window_view(x, (11, 11), (2, 3))[:, :, ::4, ::4]
        y = np.einsum("nchwij,cij->nhw", windows, w[number % 6]) + bias
        for s, patch in zip(unit.strongest[:3], unit.patches(), strict=False):
            if max(s.row, s.column) == 54:  # beyond the edge are zeros
                continue
            assert y[s.image, s.row, s.column] == pytest.approx(s.output, rel=1e-3)
            top, left = 16 + 4 * s.row, 16 + 4 * s.column
            np.testing.assert_array_equal(patch, images[s.image, top : top + 11, left : left + 11])


def test_images_of_other_classes_are_known_for_fc8(data):
    (unit,) = units.units(data, "fc8", [1])
    labels = data.store.val.labels[[s.image for s in unit.strongest]]
    assert unit.of_others == [label != 1 for label in labels]
    assert unit.patches()[0].shape == (224, 224, 3)


def test_a_unit_that_is_never_active_has_no_images(data, monkeypatch):
    monkeypatch.setattr(responses.Responses, "strongest", lambda self, unit: [])
    figure = strongest.draw(dataclasses.replace(data, layer="fc6", units=(5,)))
    assert "tower a, unit 5: active for no image" in texts(figure)


def test_only_a_drop_of_the_learning_rate_is_marked():
    lrs = [0.002, 0.005, 0.01, 0.01, 0.001, 0.001, 0.0001]  # a warm-up, then two drops
    lines = [{"epoch": float(epoch), "lr": lr} for epoch, lr in enumerate(lrs)]
    assert curves.drops(lines) == [(4.0, 0.01, 0.001), (6.0, 0.001, 0.0001)]


def test_a_long_curve_keeps_its_mean():
    lines = [{"epoch": e / 100, "loss": float(e % 7)} for e in range(3500)]
    at, values = curves.thinned(lines, "loss")
    assert curves.POINTS / 2 < len(at) == len(values) <= curves.POINTS
    assert at[0] == pytest.approx(0.025)  # six lines, 0.00 to 0.05
    assert np.mean(values) == pytest.approx(3.0, abs=0.02)


def test_the_nearest_are_those_of_all_distances():
    draw = np.random.default_rng(3)
    queries, keys = (draw.standard_normal((n, 12)).astype(np.float32) for n in (4, 50))
    distances = np.sqrt(((queries[:, None].astype(float) - keys[None]) ** 2).sum(2))
    np.testing.assert_array_equal(neighbours.nearest(queries, keys, 6), distances.argsort(1)[:, :6])


def test_confusions_are_counted_and_the_most_frequent_kept():
    labels = np.array([0, 0, 0, 1, 2, 3, 3])
    predictions = np.array([0, 2, 2, 1, 2, 1, 3])
    counts = confusion.confusion(labels, predictions, 5)
    assert counts.tolist() == [
        [1, 0, 2, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    assert confusion.most_confused(counts, 2).tolist() == [0, 2]
    assert confusion.most_confused(counts, 4).tolist() == [0, 1, 2, 3]
    assert confusion.most_confused(counts, 5).tolist() == [0, 1, 2, 3, 4]


def test_one_figure_that_fails_leaves_the_others(small_run, tiny_store, monkeypatch):
    def broken(data):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setitem(drawing.DRAWERS, "predictions", broken)
    lines = []
    names = ("predictions", "pca-colour")
    written = drawing.draw(small_run, names=names, store=tiny_store, device="cpu", say=lines.append)
    assert {path.name for path in written} == {"pca-colour.png", "pca-colour.svg"}
    assert "predictions: not drawn, for ZeroDivisionError: on purpose" in lines


@pytest.mark.parametrize("damage", ["no store", "no memory"])
def test_a_run_does_not_fail_for_its_figures(damage, small_run, tiny_store, tmp_path, monkeypatch):
    if damage == "no memory":

        def no_memory(*arguments):
            raise MemoryError

        monkeypatch.setattr(drawing, "load", no_memory)
    lines = []
    drawing.at_the_end(small_run, tmp_path if damage == "no store" else tiny_store, "cpu", lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("no figures: ")


def test_the_command_draws_the_figures_of_only(small_run):
    target = small_run / "figures" / "conv1-filters.svg"
    target.unlink()
    done = command("figures", small_run, "--only", "conv1-filters", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert target.exists()


def test_the_units_of_a_layer_are_a_figure_of_their_own(small_run, tmp_path):
    words = (small_run, "--layer", "conv5", "--to", tmp_path, "--pictures", "20")
    done = command("figures", *words, "--units", "3", "12", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "strongest-conv5.png",
        "strongest-conv5.svg",
    ]
    drawn = (tmp_path / "strongest-conv5.svg").read_text()
    assert "tower a, unit 3: " in drawn
    assert "tower b, unit 12: " in drawn
    done = command("figures", *words, "--units", "16", cwd=ROOT)
    assert done.returncode == 1
    assert "strongest: left out, for conv5 has the units 0 to 15, and no 16" in done.stdout


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--units", "3"), "--units are those of a layer"),
        (("another", "--to", "here"), "--to is the folder of one run's figures"),
        (("--to", "README.md/figures"), "README.md/figures/figure.png cannot be written"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(flags, sentence, small_run):
    done = command("figures", small_run, *flags, cwd=ROOT)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_an_exported_file_has_figures_and_with_a_store_those_of_images(exported, tiny_store):
    done = command("figures", exported, cwd=exported.parent)
    assert done.returncode == 0, done.stderr
    folder = exported.parent / "figures"
    assert {path.name for path in folder.iterdir()} == {"conv1-filters.png", "conv1-filters.svg"}
    for name in ("strongest", "activations", "predictions", "ten-crops", "pca-colour"):
        assert f"{name}: left out, for it needs images: name a store with --store" in done.stdout
    assert "learning-curves: left out, for there is no log with losses" in done.stdout
    done = command("figures", exported, "--store", tiny_store, "--pictures", "20", cwd=exported.parent)
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in folder.iterdir()}
    assert names == {*figures.NAMES} - {"learning-curves"}


def test_a_checkpoint_has_a_folder_of_its_own(small_run):
    checkpoint = min((small_run / "checkpoints").glob("step-*"))
    done = command("figures", checkpoint, "--only", "conv1-filters", "learning-curves", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    folder = small_run / "figures" / checkpoint.name
    assert {path.name for path in folder.glob("*.png")} == {"conv1-filters.png", "learning-curves.png"}


def test_a_run_whose_store_is_gone_has_the_figures_without_images(small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "moved", ignore=shutil.ignore_patterns("figures"))
    config = run / run_folder.CONFIG
    found = json.loads(config.read_text())
    found["config"]["run"]["store"] = str(tmp_path / "gone.zarr")
    config.write_text(json.dumps(found))
    done = command("figures", run, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (run / "figures").iterdir()} == {"conv1-filters", "learning-curves"}
    assert f"no images: there is no store at {tmp_path / 'gone.zarr'}" in done.stdout
    assert "confusion: left out, for it needs images: name a store with --store" in done.stdout


def test_the_error_for_a_wrong_name_lists_the_right_ones():
    done = command("figures", "--only", "filters", cwd=ROOT)
    assert done.returncode == 2
    assert "conv1-filters" in done.stdout + done.stderr


def test_several_runs_are_one_figure_with_their_names(small_run, tmp_path):
    other = tmp_path / "another"
    other.mkdir()
    for name in (run_folder.CONFIG, run_folder.LOG):
        (other / name).write_bytes((small_run / name).read_bytes())
    done = command("figures", small_run, other, "--together", "both.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Letters are outlines in an SVG; matplotlib names each text in a comment.
    drawn = (tmp_path / "both.svg").read_text()
    assert "<!-- small -->" in drawn
    assert "<!-- another -->" in drawn
