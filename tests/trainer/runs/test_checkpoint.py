"""Checkpoints come back whole, damage is noticed, and a resumed run takes the very same steps."""

import dataclasses
import os
import resource
import signal
from typing import Literal

import numpy as np
import pytest
import safetensors.numpy
import torch

from trainer.config import HardwareConfig, NetworkConfig, RunConfig
from trainer.errors import UserError
from trainer.evaluation.metrics import Counts
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER
from trainer.runs import checkpoint
from trainer.runs.checkpoint_writer import Writer
from trainer.runs.training_set import TrainingSet
from trainer.training.step import Trainer

SMALL = NetworkConfig(filters=(4, 4, 6, 6, 4), hidden=16)

SCHEDULE = {"best_error": None, "epochs_without": 0, "falls": 0}


def make_trainer(classes: int = 5, precision: Literal["float32", "bfloat16"] = "float32") -> Trainer:
    config = dataclasses.replace(
        PAPER,
        network=SMALL,
        optim=dataclasses.replace(PAPER.optim, batch_size=4),
        hardware=HardwareConfig(precision=precision),
        run=RunConfig(seed=1),
    )
    return Trainer(config, init_topology("cpu"), classes)


def step(trainer: Trainer, number: int) -> float:
    draw = torch.Generator().manual_seed(number)
    images = torch.randn(4, 3, 224, 224, generator=draw) * 60
    return trainer.train_step(images, torch.randint(0, 5, (4,), generator=draw), number, lr=0.001)


TRAINED_ON = TrainingSet(
    mean_SS3=np.full((256, 256, 3), 120, np.float32),
    classes=("ant", "bee", "cat", "dog", "eel"),
    class_names=None,
    fingerprint="0123",
)


def save(run, trainer: Trainer, number: int, keep: int = 10, error: float | None = None, **state) -> None:
    """Save, validate, take a step: what the loop does around a checkpoint."""
    writer = Writer(run, trainer.topology, keep, TRAINED_ON)
    writer.save(trainer.tensors(), {"step": number, "schedule": SCHEDULE, **state})
    writer.finish()
    if error is not None:
        writer.record_validation(number, Counts(1000, round(1000 * error), 0).to_dict())
    writer.step_taken(sound=True)
    writer.close()


def load(found: checkpoint.Checkpoint, trainer: Trainer) -> None:
    """Continue from a checkpoint, as the loop does."""
    for name, tensors in trainer.tensors().items():
        checkpoint.load(found, name, tensors)
    trainer.after_loading()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_going_on_takes_bit_for_bit_the_same_steps(tmp_path, precision):
    straight = make_trainer(precision=precision)
    for number in range(6):
        step(straight, number)
        if number == 2:
            save(tmp_path, straight, 3)

    resumed = make_trainer(precision=precision)
    found, remarks = checkpoint.find(tmp_path)
    load(found, resumed)
    assert remarks == []
    for number in range(found.state["step"], 6):
        step(resumed, number)
    for ours, theirs in zip(resumed.flat, straight.flat, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.master_weights, b.master_weights)
            assert torch.equal(a.momenta, b.momenta)


def test_files_hold_torchs_names_and_layout(tmp_path):
    save(tmp_path, make_trainer(), 1)
    folder = tmp_path / "checkpoints" / "step-00000001"
    a, b = (safetensors.numpy.load_file(folder / f"tower_{t}.safetensors") for t in "ab")
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(a) == names | {f"momentum.{name}" for name in names}
    assert set(a) - set(b) == {"fc8.bias", "momentum.fc8.bias"}
    assert a["conv1.weight"].shape == (4, 3, 11, 11)
    assert a["conv3.weight"].shape == (6, 8, 3, 3)
    assert a["fc6.weight"].dtype == np.float32


@pytest.mark.parametrize("damage", ["flip a byte", "cut the end", "remove a tower", "remove the manifest"])
def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, damage):
    trainer = make_trainer()
    save(tmp_path, trainer, 1)
    save(tmp_path, trainer, 2)
    newest = tmp_path / "checkpoints" / "step-00000002"
    tower = newest / "tower_b.safetensors"
    if damage == "flip a byte":
        with tower.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            byte = file.read(1)
            file.seek(-5, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))
    elif damage == "cut the end":
        os.truncate(tower, tower.stat().st_size - 1)
    elif damage == "remove a tower":
        tower.unlink()
    else:
        (newest / "manifest.json").unlink()
    found, remarks = checkpoint.find(tmp_path)
    assert found.path.name == "step-00000001"
    assert len(remarks) == 1
    assert "step-00000002" in remarks[0]


def test_when_nothing_sound_is_left_the_sentence_names_what_is_wrong(tmp_path):
    save(tmp_path, make_trainer(), 1)
    (tmp_path / "checkpoints" / "step-00000001" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json does not match its checksum"):
        checkpoint.find(tmp_path)


def test_a_write_that_was_killed_leaves_no_checkpoint(tmp_path):
    save(tmp_path, make_trainer(), 1)
    partial = tmp_path / "checkpoints" / ".step-00000002.partial"
    partial.mkdir()
    (partial / "tower_a.safetensors").write_bytes(b"half")
    found, remarks = checkpoint.find(tmp_path)
    assert (found.path.name, remarks) == ("step-00000001", [])
    save(tmp_path, make_trainer(), 2)
    assert checkpoint.find(tmp_path)[0].path.name == "step-00000002"


def test_the_newest_are_kept_and_the_best_too(tmp_path):
    trainer = make_trainer()
    for number in range(1, 7):
        save(tmp_path, trainer, number, keep=2, error=0.25 if number == 2 else 0.5)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-00000002", "step-00000005", "step-00000006"]
    assert checkpoint.find(tmp_path, "best")[0].path.name == "step-00000002"
    assert checkpoint.find(tmp_path, "latest")[0].path.name == "step-00000006"


def test_another_number_of_classes_is_refused(tmp_path):
    save(tmp_path, make_trainer(), 1)
    other = make_trainer(classes=7)
    found, _ = checkpoint.find(tmp_path)
    with pytest.raises(UserError, match="number of classes"):
        load(found, other)


def test_a_disk_that_takes_no_more_is_a_sentence_and_loses_nothing(tmp_path):
    trainer = make_trainer()
    save(tmp_path, trainer, 1)
    # The kernel refuses to let a file grow beyond this limit, as a full disk does.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(UserError, match="Older checkpoints are untouched"):
            save(tmp_path, trainer, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoint.find(tmp_path)[0].path.name == "step-00000001"
