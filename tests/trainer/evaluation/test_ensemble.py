"""Several networks evaluated as one, against their softmax outputs averaged in NumPy, in float64."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from trainer import evaluate
from trainer.config import HardwareConfig, NetworkConfig, RunConfig
from trainer.data.batches import open_data
from trainer.evaluation.ensemble import Ensemble
from trainer.evaluation.results import TEN, confusion_matrix
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER
from trainer.runs import run_folder
from trainer.runs.checkpoint_writer import Writer
from trainer.runs.training_set import TrainingSet
from trainer.training.step import Trainer

# Weights large enough that networks are sure of different classes.
SMALL = NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=32, init_std=0.06, init_std_conv345=0.2)

SCHEDULE = {"best_error": None, "epochs_without": 0, "falls": 0}


@pytest.fixture(scope="module")
def networks(tiny_store, tmp_path_factory):
    """Two runs, the first with two checkpoints, and for each checkpoint its trainer."""
    folder, made = tmp_path_factory.mktemp("ensemble"), []
    for run, step, seed in (("one", 1, 1), ("one", 2, 2), ("two", 1, 3)):
        config = dataclasses.replace(
            PAPER,
            network=SMALL,
            hardware=HardwareConfig(precision="float32"),
            run=RunConfig(seed=seed, store=tiny_store),
        )
        trainer = Trainer(config, init_topology("cpu"), classes=10)
        run_folder.write_config(folder / run, config, open_data(tiny_store).fingerprint)
        trained_on = TrainingSet.of(open_data(tiny_store))
        writer = Writer(folder / run, trainer.topology, keep=9, trained_on=trained_on)
        writer.save(trainer.tensors(), {"step": step, "schedule": SCHEDULE})
        writer.finish()
        made.append((folder / run / "checkpoints" / f"step-{step:08d}", trainer))
    return made


@pytest.fixture(scope="module")
def outputs(networks, tiny_store):
    """Softmax outputs of view after view, float64 [views, images, classes], for each network; the second
    has the centre crop alone."""
    store = open_data(tiny_store)
    images = store.val.read(np.arange(len(store.val))).astype(np.float64) - store.mean
    views = []
    for top, left in ((16, 16), (0, 0), (0, 32), (32, 0), (32, 32)):
        crop = images[:, top : top + 224, left : left + 224]
        views += [crop, crop[:, :, ::-1]]
    inputs = [torch.from_numpy(v.copy()).float().permute(0, 3, 1, 2) for v in views]
    return [
        np.array([trainer.network.logits(x).double().softmax(1).numpy() for x in inputs[:count]])
        for count, (_, trainer) in zip((10, 1, 10), networks, strict=True)
    ]


def wrong(scores, labels, among):
    first = np.argsort(-scores, axis=1, kind="stable")[:, :among]
    return int((first != labels[:, None]).all(axis=1).sum())


def command(tmp_path, *flags):
    target = tmp_path / "found.json"
    evaluate.main(["--device", "cpu", "--batch-size", "7", "--json", str(target), *map(str, flags)])
    return json.loads(target.read_text())


@pytest.mark.parametrize(("flags", "views", "which"), [((), 1, [0, 1, 2]), (("--ten-crop",), 10, [0, 2])])
def test_several_networks_average_to_numpys_figures(
    networks, outputs, tiny_store, tmp_path, flags, views, which
):
    paths = [str(networks[i][0]) for i in which]
    found = command(tmp_path, *flags, "--checkpoint", *paths, "--ensemble")
    labels = open_data(tiny_store).val.labels
    alone = np.array([outputs[i][:views].mean(0) for i in which])
    for record, scores in zip(found, [*alone, alone.mean(0)], strict=True):
        assert record["top1_error"] == wrong(scores, labels, 1) / 30
        assert record["top5_error"] == wrong(scores, labels, 5) / 30
        assert (record["images"], record["views"]) == (30, views)
    assert [record.get("checkpoint") for record in found] == [*paths, None]
    assert found[-1]["ensemble"] == paths
    # The ensemble must differ from each of its members, or the comparison says nothing.
    assert all((alone.mean(0).argmax(1) != one.argmax(1)).any() for one in alone)


def test_runs_are_named_like_their_checkpoints(networks, tmp_path):
    one, two = (networks[i][0].parent.parent for i in (0, 2))
    found = command(tmp_path, "--run", one, two, "--checkpoint", "latest", "--ensemble")
    assert found[-1]["ensemble"] == [str(networks[i][0]) for i in (1, 2)]
    # Without --ensemble: the networks alone, and one network's record is no list.
    assert command(tmp_path, "--run", one, two, "--checkpoint", "latest") == found[:2]
    assert command(tmp_path, "--run", two) == found[1]
    keys = {
        "top1_error",
        "top5_error",
        "images",
        "classes",
        "network_classes",
        "held_classes",
        "views",
        "checkpoint",
    }
    assert set(found[1]) == keys


def test_softmax_outputs_are_averaged_not_logits():
    first, second = torch.tensor([[0.70, 0.29, 0.01]]), torch.tensor([[0.01, 0.40, 0.59]])
    ensemble = Ensemble()
    for p in (first, second):
        ensemble.add(0, torch.tensor([0]), {TEN: p})
    # Averages 0.355, 0.345, 0.3: class 0. Of the logarithms class 1 has the highest: 0.34 against 0.08.
    (tally,) = ensemble.tallies([TEN], 3, lambda vector: vector).values()
    assert tally.confusion_KK[0].tolist() == [1, 0, 0]


def test_per_class_holds_the_confusion_matrix_and_the_table_begins_with_the_worst(
    networks, outputs, tiny_store, tmp_path, capsys
):
    store = open_data(tiny_store)
    found = command(tmp_path, "--run", networks[2][0].parent.parent, "--per-class")
    names, matrix = confusion_matrix(found)
    scores = outputs[2][0]
    guess = scores.argmax(1)
    expected = [[((store.val.labels == i) & (guess == j)).sum() for j in range(10)] for i in range(10)]
    assert names == list(store.classes)
    assert np.array_equal(matrix, expected)
    for k, row in enumerate(found["per_class"]):
        mine = store.val.labels == k
        assert row["images"] == mine.sum()
        assert row["top1_wrong"] == wrong(scores[mine], store.val.labels[mine], 1)
        assert row["top5_wrong"] == wrong(scores[mine], store.val.labels[mine], 5)
    printed = capsys.readouterr().out.split("highest error first")[1]
    errors = [float(line.split(" %")[0].split()[-1]) for line in printed.splitlines() if "%" in line]
    assert len(errors) == 10
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [(("latest",), "two networks or more"), (("latest", "best"), "twice in the ensemble")],
)
def test_an_ensemble_of_one_network_is_refused(networks, tmp_path, capsys, flags, sentence):
    with pytest.raises(SystemExit, match="1"):
        command(tmp_path, "--run", networks[2][0].parent.parent, "--checkpoint", *flags, "--ensemble")
    assert sentence in capsys.readouterr().err
