"""Both towers in one process on a GPU, by stand-ins for its tensors, compared with the CPU."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.gpu.stand_in import Log, gpus, host_of
from trainer import kernels
from trainer.commands.timeline import record
from trainer.config import NetworkConfig, with_changes
from trainer.data.batches import TrainingBatches, open_data
from trainer.evaluation.metrics import Tally
from trainer.evaluation.validation import evaluate
from trainer.parallel.topology import init_topology
from trainer.recipes import CUDA_CONVNET, PAPER
from trainer.timeline import Arguments
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
    network: NetworkConfig,
    device: str,
    precision: str = "float32",
    log: Log | None = None,
    deterministic: bool = False,
) -> tuple[list[float], list[torch.Tensor], torch.Tensor]:
    """Three steps, conv1 frozen in the last; losses, weights and an evaluation's logits."""
    optim = dataclasses.replace(PAPER.optim, batch_size=BATCH, bias_lr=2.0, bias_decay=False)
    config = with_changes(
        dataclasses.replace(PAPER, network=network, optim=optim), precision=precision, device=device
    )
    config = with_changes(config, deterministic=deterministic)
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


def test_deterministic_steps_are_those_of_the_cpu():
    network = NETWORKS["Caffe's"]  # pools apart from LRN, and rounds up
    _, weights, _ = train(network, "cpu")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    try:
        with gpus():
            _, found, _ = train(network, "cuda", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    for a, b in zip(found, weights, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-6


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("side", [6, 7])
def test_the_deterministic_gradient_of_pooling_is_torchs(window, ceil, side, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 5, (2, 3, side, side), generator=draw).double().requires_grad_()  # with equal maxima
    y = F.max_pool2d(x, window, 2, ceil_mode=ceil)
    dy = torch.randn(y.shape, dtype=torch.float64, generator=draw)
    y.backward(dy)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with gpus():
        again = x.detach().to("cuda:0").requires_grad_()
        found = kernels.max_pool2d(again, window, ceil)
        assert type(found.grad_fn).__name__ == "_DeterministicMaxPoolBackward"
        found.backward(dy.to("cuda:0"))
        torch.testing.assert_close(host_of(again.grad), x.grad)


def test_a_timeline_has_the_times_of_the_gpu_and_not_of_its_launches():
    arguments = Arguments(steps=2, batch_size=BATCH, precision="float32", network=SMALL)
    with gpus() as log:
        spans, seconds, _ = record(arguments, init_topology("cuda"))
        kernels_of_all_steps = log.kernels.total()
    # Two of the four steps were recorded. A kernel takes a millisecond there.
    assert 1e3 * seconds * 2 == pytest.approx(kernels_of_all_steps / 2, rel=0.1)
    of_update = [span for span in spans if span.name.startswith("the update")]
    assert all(1e3 * (span.end - span.begin) >= 1 for span in of_update)


def test_the_loader_makes_the_cpus_batches_and_the_host_never_waits_for_the_gpu(tiny_store):
    store, steps = open_data(tiny_store), 5

    def batches(device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        place = torch.device(device)
        loader = TrainingBatches(store, PAPER.augment, 3, 16, torch.arange(16), 0, steps, 2, place)
        try:
            return [(host_of(b.images_BCHW), host_of(b.labels_B)) for b in loader]
        finally:
            loader.close()

    expected = batches("cpu")
    with gpus() as log:
        found = batches("cuda:0")
        copies = [place for place in log.waits if "reference.py" not in place and "__init__" not in place]
    for (x, labels), (y, others) in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-4)  # of values up to 255
        assert torch.equal(labels, others)
    assert copies == []  # but for the mean image, once, and where each image is cropped: 25 bytes an image


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
