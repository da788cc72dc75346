"""Two checkpoints, one right after the other, while the disk of the rank that completes them is slow."""

import dataclasses
import os
import shutil
import time
from pathlib import Path

import pytest
from mpi4py import MPI

from trainer.data.batches import open_data
from trainer.parallel.topology import init_topology
from trainer.runs import checkpoint, checkpoint_writer
from trainer.runs.training_set import TrainingSet
from trainer.training.step import Trainer

from .test_parity import CLASSES, SMALL, configuration

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)

SCHEDULE = {"best_error": None, "epochs_without": 0, "falls": 0}


def test_the_next_checkpoint_does_not_begin_before_the_last_is_complete(monkeypatch):
    trainer = Trainer(
        configuration(dataclasses.replace(SMALL, hidden=8), batch=8), init_topology("cpu"), CLASSES
    )
    run = Path(WORLD.bcast(os.environ["TINY_STORE"] + f".run-{os.getpid()}"))
    complete = checkpoint_writer.Writer._complete

    def slowly(*arguments):
        complete(*arguments)
        time.sleep(0.5)

    monkeypatch.setattr(checkpoint_writer.Writer, "_complete", slowly)
    trained_on = TrainingSet.of(open_data(Path(os.environ["TINY_STORE"])))
    writer = checkpoint_writer.Writer(run, trainer.topology, keep=5, trained_on=trained_on)
    for step in (15, 16):
        writer.save(trainer.tensors(), {"step": step, "schedule": SCHEDULE})
    writer.finish()
    WORLD.Barrier()
    damage = {step: checkpoint.check(run / "checkpoints" / f"step-{step:08d}") for step in (15, 16)}
    WORLD.Barrier()
    if WORLD.rank == 0:
        shutil.rmtree(run)
    assert damage == {15: None, 16: None}
