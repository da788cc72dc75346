"""Measure gigabytes a second of gradients that the ranks of one tower sum.

mpirun -n 4 python -m tests.benchmarks.workers.reduce ours|bfloat16|flat STEPS
"""

import sys

import torch
from mpi4py import MPI

from tests.benchmarks.processes import report, steps_per_second
from trainer.config import NetworkConfig
from trainer.model.network import Tower
from trainer.parallel.connect import connect
from trainer.parallel.ending import abort_all_on_error
from trainer.parallel.topology import init_topology


def stage_sizes() -> list[int]:
    """Count the parameters of tower a by stage."""
    with torch.device("meta"):
        tower = Tower(NetworkConfig(), 1000, "a")
    layers = [[getattr(tower, layer) for layer in stage] for stage in tower.stages]
    return [sum(p.numel() for layer in stage for p in layer.parameters()) for stage in layers]


def main(what: str, steps: int) -> None:
    topology = init_topology("cpu")
    transport = connect(topology)
    sizes = stage_sizes()
    dtype = torch.bfloat16 if what == "bfloat16" else torch.float32
    buffers = [torch.zeros(size, dtype=dtype) for size in ([sum(sizes)] if what == "flat" else sizes)]

    def step(number: int) -> None:
        if what == "flat":
            topology.tower_comm.Allreduce(MPI.IN_PLACE, buffers[0].numpy())
        else:  # as in a backward pass: the last stage first
            for reduction in [transport.all_reduce_async(buffer) for buffer in reversed(buffers)]:
                reduction.result()
        topology.world.Barrier()

    rate = steps_per_second(step, steps)
    if topology.is_root:
        report(rate * 4 * sum(sizes) / 1e9)


if __name__ == "__main__":
    with abort_all_on_error():
        main(sys.argv[1], int(sys.argv[2]))
