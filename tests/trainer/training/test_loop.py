"""What a schedule and a setting do through the whole loop."""

import numpy as np
import pytest
import safetensors.numpy

from tests.trainer.in_process import checkpoints, logged, train
from trainer.runs.log import read_log

# 60 images: three steps an epoch.
EPOCH = ("--batch-size", "20", "--warmup-epochs", "0", "--log-every", "1")
TINY = 1e-30
"""A learning rate at which no weight in float32 changes, so that every epoch has the same error."""


def test_plateau_ends_a_run_an_epoch_after_its_third_fall_over_two_starts(tiny_store, tmp_path, capsys):
    plateau = (*EPOCH, "--epochs", "30", "--lr", str(TINY), "--schedule", "plateau", "--patience", "1")
    assert train(tiny_store, tmp_path / "run", *plateau, "--max-steps", "7") == 0
    assert train(tiny_store, tmp_path / "run", *plateau) == 0
    capsys.readouterr()
    assert (tmp_path / "run" / "complete").read_text() == "15 steps\n"
    # The first epoch has the best error. Each of the next three divides the rate by ten; the fifth ends it.
    steps = [line for line in read_log(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    falls = [0] * 6 + [1] * 3 + [2] * 3 + [3] * 3
    assert [line["lr"] for line in steps] == pytest.approx([TINY / 10**n for n in falls])
    ends = logged(tmp_path / "run", "val_top1_error")
    assert [step for step in ends if step % 3 == 0] == [3, 6, 9, 12, 15]


def test_conv1_stands_still_from_the_epoch_on_in_which_it_is_frozen(tiny_store, tmp_path, capsys):
    frozen = (*EPOCH, "--epochs", "2", "--lr", "0.01", "--freeze-conv1-epoch", "1")
    assert train(tiny_store, tmp_path / "run", *frozen, "--checkpoint-every", "1", "--keep", "9") == 0
    capsys.readouterr()
    assert checkpoints(tmp_path / "run") == [f"{step:04d}" for step in range(1, 7)]

    def tensors(step: int, tower: str) -> dict[str, np.ndarray]:
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        return safetensors.numpy.load_file(folder / f"tower_{tower}.safetensors")

    for tower in "ab":
        begin, middle, end = (tensors(step, tower) for step in (1, 3, 6))
        for name, value in end.items():
            layer = name.removeprefix("momentum.").split(".")[0]
            assert np.array_equal(value, middle[name]) == (layer == "conv1"), name
            assert not np.array_equal(middle[name], begin[name]), name
