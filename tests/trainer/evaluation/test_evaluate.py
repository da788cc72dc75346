"""Ten crops against views cut and softmax outputs averaged by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from trainer.config import HardwareConfig, NetworkConfig, RunConfig
from trainer.data.batches import open_data
from trainer.evaluation.results import CENTER, TEN
from trainer.evaluation.validation import evaluate
from trainer.model.network import TwoTowerAlexNet
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER
from trainer.training.step import Trainer

SMALL = NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=32, init_std=0.03, init_std_conv345=0.1)


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_data(tiny_store)


@pytest.fixture(scope="module")
def trainer():
    config = dataclasses.replace(
        PAPER, network=SMALL, hardware=HardwareConfig(precision="float32"), run=RunConfig(seed=4)
    )
    return Trainer(config, init_topology("cpu"), classes=10)


def counts(trainer, store, **how):
    """Counts by kind of view."""
    found = evaluate(trainer.network, store, trainer.config.augment, **how)
    return {views: tally.counts for views, tally in found.items()}


def test_both_kinds_of_view_equal_an_average_of_softmax_outputs_made_by_hand(store, trainer):
    reference = TwoTowerAlexNet(SMALL, 10)
    reference.a.load_state_dict(trainer.towers[0].state_dict())
    reference.b.load_state_dict(trainer.towers[1].state_dict())
    images = store.val.read(np.arange(len(store.val))).astype(np.float64) - store.mean
    views = []
    for top, left in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16)):
        crop = images[:, top : top + 224, left : left + 224]
        views += [crop, crop[:, :, ::-1]]
    with torch.no_grad():
        outputs = [
            reference(torch.from_numpy(v.copy()).float().permute(0, 3, 1, 2)).double().softmax(1).numpy()
            for v in views
        ]
    labels = store.val.labels
    expected = {CENTER: outputs[8], TEN: np.mean(outputs, axis=0)}

    found = counts(trainer, store, ten_crop=True, batch=7)
    for kind, scores in expected.items():
        ranks = (scores > scores[np.arange(len(labels)), labels][:, None]).sum(1)
        assert found[kind].images == len(labels)
        assert found[kind].top1_wrong == (ranks >= 1).sum(), kind
        assert found[kind].top5_wrong == (ranks >= 5).sum(), kind
    # The two kinds must differ somewhere, or the comparison says nothing.
    assert not np.array_equal(expected[CENTER].argsort(1), expected[TEN].argsort(1))


def test_batch_size_does_not_matter(store, trainer):
    assert counts(trainer, store, batch=30) == counts(trainer, store, batch=11)
