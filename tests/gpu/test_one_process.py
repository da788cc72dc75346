"""Both towers in one process on a GPU, by stand-ins for its tensors, compared with the CPU."""

import dataclasses

import pytest
import torch

from tests.gpu.stand_in import Log, gpus, host_of
from trainer.config import NetworkConfig, with_changes
from trainer.data.batches import open_data
from trainer.evaluation.metrics import Tally
from trainer.evaluation.validation import evaluate
from trainer.parallel.topology import init_topology
from trainer.recipes import CUDA_CONVNET, PAPER
from trainer.training.step import Trainer

CLASSES, BATCH = 7, 4
SMALL = NetworkConfig(filters=(8, 16, 16, 16, 16), hidden=32, init_std=0.03)
NETWORKS = {
    "the paper's": SMALL,
    "the program's": dataclasses.replace(
        CUDA_CONVNET.network, filters=SMALL.filters, hidden=32, init_std=0.03, init_std_conv345=0.1
    ),
    "one tower": dataclasses.replace(SMALL, towers=1),
    "dense": dataclasses.replace(SMALL, dense=True),
    "tanh": dataclasses.replace(SMALL, activation="tanh"),
    "without LRN, overlap and dropout": dataclasses.replace(SMALL, lrn=False, overlap=False, dropout=0.0),
    "Caffe's": dataclasses.replace(SMALL, lrn_over="both", conv1_pad=0, inverted_dropout=True),
}


def train(
    network: NetworkConfig, device: str, precision: str = "float32", log: Log | None = None
) -> tuple[list[float], list[torch.Tensor], torch.Tensor]:
    """Three steps, conv1 frozen in the last; losses, weights and an evaluation's logits."""
    optim = dataclasses.replace(PAPER.optim, batch_size=BATCH, bias_lr=2.0, bias_decay=False)
    config = with_changes(
        dataclasses.replace(PAPER, network=network, optim=optim), precision=precision, device=device
    )
    trainer = Trainer(config, init_topology(device, towers=network.towers), CLASSES)
    draw, losses = torch.Generator().manual_seed(0), []
    for step in range(3):
        images = torch.randn(BATCH, 3, 224, 224, generator=draw) * 60
        images = images.contiguous(memory_format=torch.channels_last).to(trainer.topology.device)
        labels = torch.randint(CLASSES, (BATCH,), generator=draw).to(trainer.topology.device)
        if log:
            log.clear()
        losses.append(trainer.train_step(images, labels, step, 1e-3, ("conv1",) if step == 2 else ()))
    logits = host_of(trainer.network.logits(images)).clone()
    return losses, [host_of(s.master_weights).clone() for tower in trainer.flat for s in tower], logits


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_trains_as_on_the_cpu(name):
    losses, weights, logits = train(NETWORKS[name], "cpu")
    with gpus():
        found_losses, found, found_logits = train(NETWORKS[name], "cuda")
    assert found_losses == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(found_logits, logits, rtol=1e-3, atol=1e-4 * logits.abs().max().item())
    for a, b in zip(found, weights, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-6


def test_the_host_waits_for_one_number_in_a_step():
    """The loss, which must be finite before the update."""
    with gpus() as log:
        train(SMALL, "cuda", "bfloat16", log)
        waits = {place: count for place, count in log.waits.items() if "to the GPU" not in place}
    assert list(waits.values()) == [1], waits


@pytest.mark.parametrize("ten_crop", [False, True])
def test_evaluation_uploads_each_image_once_and_counts_as_the_cpu(ten_crop, tiny_store):
    store = open_data(tiny_store)

    def counts(device: str) -> dict[str, Tally]:
        config = with_changes(dataclasses.replace(PAPER, network=SMALL), precision="float32", device=device)
        config = with_changes(config, batch_size=BATCH)
        trainer = Trainer(config, init_topology(device), len(store.classes))
        return evaluate(trainer.network, store, config.augment, ten_crop=ten_crop, batch=8)

    expected = counts("cpu")
    with gpus() as log:
        found = counts("cuda")
        uploads = sum(n for place, n in log.waits.items() if "evaluation_batches" in place)
    assert {k: v.counts for k, v in found.items()} == {k: v.counts for k, v in expected.items()}
    assert uploads == 4  # labels of 30 images, 8 at a time; the images themselves do not make the host wait
