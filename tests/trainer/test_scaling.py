"""The cost model against numbers computed by hand, and its command."""

import dataclasses

import pytest
import torch

from trainer.config import NetworkConfig
from trainer.hardware import GPUS
from trainer.model.network import Tower
from trainer.scaling import (
    BACKWARD_MACS,
    FORWARD_MACS,
    PARAMETERS,
    Settings,
    all_reduce,
    counts,
    exposed_reduction,
    gains,
    main,
    step,
)


def test_the_stages_are_the_networks():
    with torch.device("meta"):
        tower = Tower(NetworkConfig(), 1000, "a")
    for stage, expected in zip(tower.stages, PARAMETERS, strict=True):
        assert sum(p.numel() for layer in stage for p in getattr(tower, layer).parameters()) == expected
    assert 2 * sum(FORWARD_MACS) == pytest.approx(724.4e6, rel=1e-3)
    # An image takes 4.136 GFLOP: 3 x 2 x 724.4 million less 2 x 105.4 of conv1.
    assert 2 * 2 * (sum(FORWARD_MACS) + sum(BACKWARD_MACS)) == pytest.approx(4.136e9, rel=1e-3)


def test_an_all_reduce_over_two_ranks_sends_the_array_once_each_way():
    assert all_reduce(100.0, 1, 10.0, 1.0) == 0
    assert all_reduce(100.0, 2, 10.0, 1.0) == 2 * 1 + 2 * 50 / 10
    assert all_reduce(100.0, 8, 10.0, 0.0) == pytest.approx(2 * 87.5 / 10)


@pytest.mark.parametrize(
    ("backward", "reductions", "left"),
    [
        # By stage, from the bottom. The top stage takes 1 s and its reduction 4 s, until 5 s. The bottom
        # stage ends at 11 s, its reduction 1 s later.
        ((10.0, 1.0), (1.0, 4.0), 1.0),
        # The top stage ends at 1 s, its reduction at 21 s; the bottom stage at 3 s, its reduction at 22 s.
        ((2.0, 1.0), (1.0, 20.0), 19.0),
    ],
)
def test_reductions_overlap_with_the_stages_below(backward, reductions, left):
    assert exposed_reduction(backward, reductions, overlap=True) == left
    assert exposed_reduction(backward, reductions, overlap=False) == sum(reductions)


def test_one_pair_has_no_reduction():
    gpu = dataclasses.replace(GPUS["a100"], memory=float("inf"), link=float("inf"), launch=0.0)
    found = step(Settings(gpu="a100", pair_batch=128), 2, gpu)
    # Two GPUs at 22 % of 312 TFLOP/s, 4.136 GFLOP per image.
    assert found.images / found.compute == pytest.approx(2 * 0.22 * 312e12 / 4.136e9, rel=1e-3)
    assert found.exposed == 0
    assert found.exchange == pytest.approx(7 * 3e-6)


def test_a_fixed_batch_is_divided_and_a_slow_network_limits_the_step():
    fixed = Settings(batch_size=1024, network="10gbe")
    assert step(fixed, 64).images == step(fixed, 8).images == 1024
    assert step(fixed, 64).exposed > 10 * step(fixed, 64).compute
    assert gains(fixed, 64)["overlap"] > 10
    assert gains(dataclasses.replace(fixed, precision="float32"), 64)["precision"] > 1.9
    bfloat16 = dataclasses.replace(fixed, gradient_dtype="bfloat16")
    assert step(bfloat16, 64).exposed == pytest.approx(step(fixed, 64).exposed / 2, rel=0.01)


def test_counts_double_and_wrong_ones_are_refused(capsys):
    assert counts(Settings(gpus=1024)) == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert counts(Settings(gpus=24)) == [12, 24]
    with pytest.raises(SystemExit, match="--gpus must be an even number"):
        main(["--gpus", "9"])


def test_the_command_prints_a_row_for_each_number_and_draws_a_plot(tmp_path, capsys):
    main(["--gpus", "32", "--plot", str(tmp_path / "plot.png")])
    lines = capsys.readouterr().out.splitlines()
    rows = {words[0]: words for line in lines if (words := line.split()) and words[0].isdigit()}
    assert list(rows) == ["8", "16", "32"]
    assert float(rows["32"][2].replace(",", "")) > 2 * float(rows["8"][2].replace(",", ""))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
