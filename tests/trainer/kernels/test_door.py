"""Which backend an operation takes, and how a run says it."""

import dataclasses

import pytest
import torch

from trainer import kernels
from trainer.config import HardwareConfig, NetworkConfig, with_changes
from trainer.kernels import table
from trainer.kernels.table import TABLE
from trainer.parallel.topology import init_topology
from trainer.recipes import CUDA_CONVNET, PAPER
from trainer.runs.run_folder import differences
from trainer.training.backends import describe
from trainer.training.step import Trainer

WIDE = NetworkConfig(filters=(16, 32, 16, 16, 16), hidden=8)
NARROW = NetworkConfig(filters=(16, 6, 16, 16, 16), hidden=8, conv2_order="lrn-pool-relu")


def trainer(network: NetworkConfig, **hardware: object) -> Trainer:
    config = dataclasses.replace(
        PAPER,
        network=network,
        optim=dataclasses.replace(PAPER.optim, batch_size=2),
        hardware=HardwareConfig(**hardware),
    )
    return Trainer(config, init_topology("cpu"), 7)


@pytest.fixture
def every_instruction_set(monkeypatch):
    """As if this processor had AMX and AVX-512 BF16: nothing is computed here."""
    for operation, backends in TABLE.items():
        met = [
            dataclasses.replace(b, needs=dataclasses.replace(b.needs, available=True))
            if b.needs.cpu_flag
            else b
            for b in backends
        ]
        monkeypatch.setitem(TABLE, operation, tuple(met))


LINES = {
    "the paper's": (
        (WIDE, {"precision": "bfloat16"}),
        "conv1 space-to-depth, relu_lrn_pool avx512, conv2d amx, linear accumulate, "
        "uniform numba, sgd avx512, crop numba",
    ),
    "float32": (
        (WIDE, {"precision": "float32"}),
        "conv1 torch, relu_lrn_pool numba, conv2d torch, linear accumulate, "
        "uniform numba, sgd numba, crop numba",
    ),
    "several backends of an operation": (
        (NARROW, {"precision": "bfloat16"}),
        "conv1 space-to-depth, relu_lrn_pool avx512 (conv1) numba (conv2), "
        "conv2d torch (conv2 conv3) amx (conv4 conv5), linear accumulate, "
        "uniform numba, sgd avx512, crop numba",
    ),
    "reference": (
        (WIDE, {"precision": "bfloat16", "kernels": "reference"}),
        "conv1 torch, relu_lrn_pool torch, conv2d torch, linear torch, uniform torch, sgd torch, crop torch",
    ),
}


@pytest.mark.parametrize(("run", "line"), LINES.values(), ids=LINES)
def test_a_run_says_which_backend_each_operation_takes(run, line, every_instruction_set):
    network, hardware = run
    assert describe(trainer(network, **hardware)) == f"kernels: {line}"


def test_compiled_stages_leave_products_to_torch(every_instruction_set):
    calls = list(trainer(WIDE, precision="bfloat16").towers[0].calls())
    line = kernels.chosen(calls, compiled=True)
    assert line == "kernels: conv1 space-to-depth, relu_lrn_pool avx512, conv2d torch, linear torch"


@pytest.mark.parametrize("recipe", [PAPER, CUDA_CONVNET], ids=["paper", "cuda-convnet"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_calls_what_a_run_says(recipe, precision, monkeypatch):
    """The examples that a choice is made for stand for the arguments of a step."""
    network = dataclasses.replace(recipe.network, filters=WIDE.filters, hidden=8)
    of_run = trainer(network, precision=precision)
    named = {(op, table.choose(op, arguments, False).name) for _, op, arguments in of_run.towers[0].calls()}
    called = set()
    choose = table.choose

    def note(operation, arguments, compiled):
        backend = choose(operation, arguments, compiled)
        called.add((operation, backend.name))
        return backend

    monkeypatch.setattr(table, "choose", note)
    of_run.gradients(torch.zeros(2, 3, 224, 224), torch.zeros(2, dtype=torch.int64), step=0)
    called -= {(op, name) for op, name in called if op == "uniform"}
    assert called == named


def test_plain_torch_for_everything_takes_the_same_steps():
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(2, 3, 224, 224, generator=draw) * 60, torch.tensor([1, 5])
    losses, weights = [], []
    for mode in ("auto", "reference"):
        of_run = trainer(WIDE, precision="float32", kernels=mode)
        losses.append([of_run.train_step(images, labels, step, lr=1e-3) for step in range(3)])
        weights.append(torch.cat([flat.master_weights for flat in of_run.flat[0]]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not torch.equal(*weights)  # other sums, so other roundings
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


def test_a_run_is_continued_with_other_kernels():
    assert not differences(PAPER, with_changes(PAPER, kernels="reference"))
