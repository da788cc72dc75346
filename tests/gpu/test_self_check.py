"""Kernels of the GPU that fail at a run's start are left out with a sentence, and the run goes on."""

import dataclasses

import numpy as np
import pytest
import torch

from preprocess.store import open_store
from tests.gpu.stand_in import gpus
from tests.trainer.in_process import command
from trainer.evaluation.pretrained import load
from trainer.kernels import reference, self_check, table

CUDA = torch.device("cuda:0")


def no_compiler(*arguments):
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore lines")


def halved(x, *settings):
    return reference.relu_lrn_pool(x, *settings) / 2


def not_rounded(w, v, g, rounded, *rates):
    reference.sgd_(w, v, g, None, *rates)


@pytest.fixture
def backends(monkeypatch):
    """A table in which the GPU's kernels are these functions; the reference is one that is right."""
    monkeypatch.setattr(table, "TABLE", dict(table.TABLE))
    needs = dataclasses.replace(table.TRITON, available=True)

    def use(**functions):
        for operation, function in functions.items():
            others = [b for b in table.TABLE[operation] if b.name != "triton"]
            mine = table.Backend("triton", needs, lambda *arguments: True, function)
            table.TABLE[operation] = (mine, *others)

    use(relu_lrn_pool=reference.relu_lrn_pool, sgd_=reference.sgd_)
    return use


def names(operation):
    return [backend.name for backend in table.TABLE[operation]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_kernels_stay(dtype, backends):
    with gpus():
        assert self_check.left_out(CUDA, dtype) == []
    assert names("relu_lrn_pool")[0] == names("sgd_")[0] == "triton"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_that_cannot_run_are_left_out(dtype, backends):
    backends(relu_lrn_pool=no_compiler)
    with gpus():
        (sentence,) = self_check.left_out(CUDA, dtype)
    assert sentence == (
        "kernel relu_lrn_pool: triton cannot run here (Failed to find C compiler. Please specify via CC "
        "environment variable.); torch's operations are used instead"
    )
    assert "triton" not in names("relu_lrn_pool")
    assert names("sgd_")[0] == "triton"


def test_kernels_that_compute_something_else_are_left_out(backends):
    backends(relu_lrn_pool=halved, sgd_=not_rounded)
    with gpus():
        sentences = self_check.left_out(CUDA, torch.bfloat16)
    for sentence, operation in zip(sentences, ("relu_lrn_pool", "sgd"), strict=True):
        assert sentence.startswith(f"kernel {operation}: triton differs by")
    assert "triton" not in names("relu_lrn_pool") + names("sgd_")


def test_a_network_that_is_loaded_or_evaluated_goes_on_without_them(
    backends, small_run, tiny_store, capsys, tmp_path
):
    images = open_store(tiny_store).val.read(range(3))
    expected = load(small_run, device="cpu").probabilities(images)
    backends(relu_lrn_pool=no_compiler)
    with gpus():
        found = load(small_run, device="cuda:0").probabilities(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "triton cannot run here (Failed to find C compiler." in capsys.readouterr().err
    backends(relu_lrn_pool=no_compiler)
    with gpus():
        done = command("evaluate", "--run", small_run, "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "triton cannot run here (Failed to find C compiler." in " ".join(done.stdout.split())


def test_nothing_is_tried_on_a_cpu(backends):
    backends(relu_lrn_pool=no_compiler)
    assert self_check.left_out(torch.device("cpu"), torch.float32) == []
