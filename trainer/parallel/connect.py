"""The transport that a job's ranks use."""

from __future__ import annotations

import torch.distributed

from trainer.errors import UserError
from trainer.parallel.mpi_transport import OverMpi
from trainer.parallel.topology import Topology
from trainer.parallel.torch_transport import OverTorch
from trainer.parallel.transport import OneProcess, Transport


def connect(topology: Topology, kind: str = "auto") -> Transport:
    """A transport of this kind: mpi, torch, or auto: NCCL where every rank has its own GPU, MPI elsewhere.

    Raises UserError when this torch cannot.
    """
    if topology.world.size == 1:
        return OneProcess(topology)
    on_gpu = topology.device.type == "cuda"
    possible = torch.distributed.is_available() and (
        (torch.distributed.is_nccl_available() and topology.own_gpu)
        if on_gpu
        else torch.distributed.is_gloo_available()
    )
    if kind == "torch" and not possible:
        why = "NCCL and a GPU for each rank" if on_gpu else "a torch with gloo"
        raise UserError(f"--transport torch needs {why}; use --transport mpi.")
    over_torch = kind == "torch" or (kind == "auto" and on_gpu and possible)
    return OverTorch(topology) if over_torch else OverMpi(topology)
