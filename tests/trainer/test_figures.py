"""The numbers in figures against hand counts, and labels that are neither cut nor overlap."""

import dataclasses
import shutil

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from tests.launch import ROOT
from tests.trainer.in_process import command
from trainer import figures
from trainer.data.batches import open_data
from trainer.evaluation.pretrained import load
from trainer.figures import confusion, curves, drawing, filters, neighbours, style
from trainer.figures.run_data import RunData
from trainer.runs import run_folder
from trainer.runs.log import read_log


@pytest.fixture(scope="module")
def small_run(small_run, tmp_path_factory):
    """A copy, in which figures are drawn."""
    return shutil.copytree(small_run, tmp_path_factory.mktemp("figures") / "small")


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


@pytest.mark.parametrize("name", figures.NAMES)
def test_no_label_is_cut_or_overlaps_another(name, data, monkeypatch):
    drawn = {}
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
