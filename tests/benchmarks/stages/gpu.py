"""Training steps of one process with both towers on a GPU: images in its memory, and through the loader."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from mpi4py import MPI

from preprocess.errors import UserError
from preprocess.store import open_store
from tests.benchmarks.harness import Contender, Row, rate
from tests.benchmarks.networks import one_tower
from tests.benchmarks.pictures import small_store
from tests.benchmarks.settings import Settings
from tests.benchmarks.stages.step import GFLOP_AN_IMAGE
from trainer import kernels
from trainer.config import Config, OptimizerConfig, with_changes
from trainer.data.batches import TrainingBatches
from trainer.kernels import reference
from trainer.parallel.topology import init_topology
from trainer.recipes import AUTO
from trainer.training.step import Trainer

CLASSES = 1000
SIDE = 8192  # rows and columns of the matrices whose product is the limit
PREPARED = 100_000  # steps that the loader can make


def rows(settings: Settings, scratch: Path) -> list[Row]:
    if not torch.cuda.is_available():
        raise UserError("torch sees no GPU here: the stage gpu needs one, and torch's build for it")
    topology = init_topology("cuda", MPI.COMM_SELF)
    same_function(topology.device)
    limit = product(settings, topology.device)
    store = open_store(settings.store or small_store(settings, scratch))
    table = []
    for batch in settings.gpu_batches:
        optim = OptimizerConfig(batch_size=batch, lr=1e-3, epochs=1)
        config = Config(network=AUTO.network, augment=AUTO.augment, optim=optim)
        trainer = Trainer(config, topology, CLASSES)
        fused = Trainer(with_changes(config, compile=True), topology, CLASSES)
        draw = torch.Generator(topology.device).manual_seed(0)
        images = torch.randn(batch, 3, 224, 224, generator=draw, device=topology.device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(CLASSES, (batch,), generator=draw, device=topology.device)
        steps = count()

        def resident(trainer: Trainer = trainer, images=images, labels=labels, steps=steps) -> None:
            trainer.train_step(images, labels, next(steps), lr=1e-3)

        batches = TrainingBatches(
            store, AUTO.augment, 0, batch, trainer.positions(), 0, PREPARED, topology.threads, topology.device
        )
        ready = iter(batches)

        def loaded(trainer: Trainer = trainer, ready=ready) -> None:
            made = next(ready)
            trainer.train_step(made.images_BCHW, made.labels_B, made.step, 1e-3)

        peer = Contender(
            "the one-tower AlexNet of model zoos (no LRN), bfloat16 autocast, channels_last, fused SGD",
            rate(batch, plain(images, labels), settings.seconds),
        )
        for name, what, function in (
            ("resident", "both towers in one process, images on the GPU", resident),
            ("step compiled", "the same with --compile", partial(resident, fused)),
            ("loaded", "as resident, with images from the store through the loader", loaded),
        ):
            ours = Contender(what, rate(batch, finished(function), settings.seconds))
            table.append(Row(stage=f"gpu {batch} {name}", unit="img/s", ours=ours, peer=peer, limit=limit))
    return table


def finished(function: Callable[[], object]) -> Callable[[], None]:
    """Make a function that also waits for the GPU to finish."""

    def call() -> None:
        function()
        torch.cuda.synchronize()

    return call


def plain(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    network = one_tower(CLASSES).to(images.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return finished(step)


def product(settings: Settings, device: torch.device) -> Contender:
    a, b = torch.randn(2, SIDE, SIDE, device=device).bfloat16()
    out = torch.empty_like(a)
    images = 2 * SIDE**3 / 1e9 / GFLOP_AN_IMAGE
    return Contender(
        f"a matrix product of {SIDE}x{SIDE} in bfloat16, over {GFLOP_AN_IMAGE:.3f} GFLOP an image",
        rate(images, finished(lambda: torch.mm(a, b, out=out)), settings.seconds),
    )


def same_function(device: torch.device) -> None:
    """Check, before anything is measured, that the GPU kernel equals the formula, forward and backward."""
    for relu in (False, True):
        same_lrn(device, relu)


def same_lrn(device: torch.device, relu: bool) -> None:
    """Raise AssertionError if the kernel and the formula differ."""
    x = (5 * torch.randn(4, 48, 9, 9, device=device)).contiguous(memory_format=torch.channels_last)
    dy = torch.randn_like(x)
    constants = (relu, None, 5, 2.0, 1e-2, 0.75)
    found, expected = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected_y = (
        form.relu_lrn_pool(leaf, *constants) for form, leaf in ((kernels, found), (reference, expected))
    )
    torch.testing.assert_close(y, expected_y.float(), rtol=1e-5, atol=1e-5)
    y.backward(dy)
    expected_y.backward(dy.double())
    assert found.grad is not None
    assert expected.grad is not None
    torch.testing.assert_close(found.grad, expected.grad.float(), rtol=1e-4, atol=1e-5)
