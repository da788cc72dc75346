"""Whole commands on a GPU, by stand-ins for its tensors, compared with the CPU."""

import contextlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from preprocess.store import open_store
from tests.gpu.stand_in import gpus
from tests.trainer.in_process import command, train
from trainer.evaluation.pretrained import load
from trainer.runs.log import having, read_log


def on(device):
    """The context of a command on this device."""
    return gpus() if device == "cuda" else contextlib.nullcontext()


@pytest.fixture(scope="module")
def runs(tiny_store, tmp_path_factory):
    """A run on the CPU and the same on a GPU: stopped in the second epoch, continued, complete."""
    folder = tmp_path_factory.mktemp("runs")
    for device in ("cpu", "cuda"):
        for steps in ("20", "40"):
            with on(device):
                code = train(
                    tiny_store,
                    folder / device,
                    *(
                        "--device",
                        device,
                        "--epochs",
                        "3",
                        "--max-steps",
                        steps,
                        "--log-every",
                        "5",
                        "--lr",
                        "0.001",
                    ),
                )
            assert code == 0
    return folder


def test_a_run_that_goes_on_learns_the_same(runs):
    logs = [read_log(runs / device / "metrics.jsonl") for device in ("cpu", "cuda")]
    cpu, cuda = ([line["loss"] for line in having(log, "loss")] for log in logs)
    assert len(cpu) == 8
    assert cuda == pytest.approx(cpu, rel=1e-4)
    cpu, cuda = (having(log, "val_top1_error", "val_top5_error") for log in logs)
    assert [line["val_top1_error"] for line in cuda] == [line["val_top1_error"] for line in cpu]
    for tower in "ab":
        a, b = (
            load_file(runs / d / "checkpoints/step-00000040" / f"tower_{tower}.safetensors")
            for d in ("cuda", "cpu")
        )
        for name, array in b.items():
            np.testing.assert_allclose(a[name], array, rtol=0, atol=1e-4 * max(np.abs(array).max(), 1e-3))


def test_evaluation_counts_the_same(runs, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        target = tmp_path / f"{device}.json"
        with on(device):
            done = command(
                *("evaluate", "--run", runs / "cpu", "--ten-crop", "--device", device, "--json", target),
                cwd=tmp_path,
            )
        assert done.returncode == 0, done.stderr
        found[device] = json.loads(target.read_text())
    assert found["cuda"]["top1_error"] == found["cpu"]["top1_error"]
    assert found["cuda"]["top5_error"] == found["cpu"]["top5_error"]


def test_a_dry_run_prints_the_same_plan(runs, tiny_store, tmp_path, capsys):
    plans = []
    for device in ("cpu", "cuda"):
        with on(device):
            assert train(tiny_store, tmp_path / "new", "--device", device, "--dry-run") == 0
        plans.append(capsys.readouterr().out)
    steps = [[line for line in plan.splitlines() if line.startswith("steps:")] for plan in plans]
    assert steps[0] == steps[1] != []
    assert ", cuda, " in plans[1]


def test_a_network_that_is_loaded_gives_the_same_probabilities(runs, tiny_store):
    images = open_store(tiny_store).val.read(np.arange(5))
    expected = load(runs / "cpu", device="cpu").probabilities(images, ten_crop=True)
    with gpus():
        found = load(runs / "cpu", device="cuda:0").probabilities(images, ten_crop=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
