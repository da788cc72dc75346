"""Ranks on GPUs, by stand-ins for their tensors: a GPU each over NCCL, or one shared over MPI."""

import pytest
import torch
from mpi4py import MPI

from tests.gpu.stand_in import GpuTensor, gpus, host_of
from tests.mpi.test_parity import CLASSES, LR, SMALL, configuration, global_batch
from trainer.config import with_changes
from trainer.parallel.mpi_transport import OverMpi
from trainer.parallel.topology import init_topology
from trainer.training.health import Observation
from trainer.training.step import Trainer

WORLD = MPI.COMM_WORLD
BATCH = 8

pytestmark = pytest.mark.mpi(min_size=2)


def train(device: str, travel: str) -> tuple[str, list[float], list[torch.Tensor], dict[str, float]]:
    """Three steps, the second one watched; returns the transport, losses, weights and statistics."""
    config = with_changes(configuration(SMALL, BATCH), device=device, gradient_dtype=travel, transport="auto")
    trainer = Trainer(config, init_topology(device), CLASSES)
    images, labels = (x[trainer.positions()].to(trainer.topology.device) for x in global_batch(BATCH))
    losses, seen = [], {}
    for step in range(3):
        watched = Observation(trainer.towers) if step == 1 else None
        losses.append(trainer.train_step(images, labels, step, LR, observation=watched))
        if watched:
            watched.close()
            seen = watched.summary(trainer.transport)
    weights = [host_of(stage.master_weights).clone() for stages in trainer.flat for stage in stages]
    return trainer.transport.name, losses, weights, seen


@pytest.mark.parametrize("travel", ["float32", "bfloat16"])
@pytest.mark.parametrize("over", ["NCCL", "MPI through host memory"])
def test_steps_on_gpus_equal_those_on_cpus(over, travel):
    _, losses, weights, seen = train("cpu", travel)
    with gpus(count=WORLD.size if over == "NCCL" else 1, nccl=over == "NCCL"):
        name, found_losses, found, found_seen = train("cuda", travel)
    assert name == over
    assert found_losses == pytest.approx(losses, rel=1e-6)
    assert found_seen == pytest.approx(seen, rel=1e-3, abs=1e-6)
    for a, b in zip(found, weights, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-6


@pytest.mark.parametrize("shared", [False, True])
def test_gpus_are_told_apart_where_each_rank_sees_one_alone(shared):
    with gpus(count=1, ids=("GPU-the-same" if shared else f"GPU-of-rank-{WORLD.rank}",)):
        assert init_topology("cuda").own_gpu is not shared


@pytest.mark.mpi(min_size=4)
def test_mpi_gets_gpu_memory_once_the_kernels_before_are_done(monkeypatch):
    """Memory that is taken after the host waited may still be in use by kernels that were queued before."""
    transport, events = OverMpi(init_topology("cpu")), []
    exchange, empty = MPI.Request.Waitall, torch.Tensor.new_empty
    monkeypatch.setattr("trainer.parallel.mpi_transport._finish", lambda device: events.append("wait"))
    monkeypatch.setattr("trainer.parallel.mpi_transport._buffer", lambda x: x.view(torch.uint8).numpy())

    def take(self, *sizes, **named):
        events.append("take")
        return empty(self, *sizes, **named)

    def waitall(requests):
        events.append("exchange")
        return exchange(requests)

    monkeypatch.setattr(torch.Tensor, "new_empty", take)
    monkeypatch.setattr("trainer.parallel.mpi_transport._wait_all", waitall)
    transport.reduce(torch.ones(100, dtype=torch.bfloat16))
    assert events == ["take", "wait", "exchange", "wait", "exchange"]


def test_the_stand_in_is_as_strict_as_a_gpu():
    with gpus(nccl=True):
        x = torch.ones(3, device="cuda")
        assert isinstance(x, GpuTensor)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        with pytest.raises(RuntimeError, match="No backend type"):
            torch.distributed.all_reduce(torch.ones(3))
