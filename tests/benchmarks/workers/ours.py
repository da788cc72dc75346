"""Measure images a second of Trainer.train_step: one process with both towers, or ranks under mpirun.

mpirun -n 2 python -m tests.benchmarks.workers.ours bfloat16 BATCH STEPS [no-lrn]
"""

import sys
from dataclasses import replace
from typing import Literal, cast

import torch

from tests.benchmarks.processes import report, steps_per_second
from trainer.config import HardwareConfig
from trainer.parallel.ending import abort_all_on_error
from trainer.parallel.topology import init_topology
from trainer.recipes import AUTO
from trainer.training.step import Trainer

CLASSES = 1000
Precision = Literal["float32", "bfloat16"]


def main(precision: Precision, batch: int, steps: int, lrn: bool) -> None:
    topology = init_topology("cpu")
    config = replace(
        AUTO,
        network=replace(AUTO.network, lrn=lrn),
        optim=replace(AUTO.optim, batch_size=batch),
        hardware=HardwareConfig(precision=precision, device="cpu"),
    )
    trainer = Trainer(config, topology, CLASSES)
    draw = torch.Generator().manual_seed(topology.pair)
    images = torch.randn(trainer.local_batch, 3, 224, 224, generator=draw)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (trainer.local_batch,), generator=draw)
    rate = steps_per_second(lambda step: trainer.train_step(images, labels, step, lr=1e-3), steps)
    if topology.is_root:
        report(batch * rate)


if __name__ == "__main__":
    with abort_all_on_error():
        main(cast(Precision, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), lrn="no-lrn" not in sys.argv)
