"""The exchanges over MPI: through host memory, or from GPU memory where the MPI library accepts it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.parallel.mpi import MPI
from trainer.parallel.topology import Topology
from trainer.parallel.transport import Pending, Transport


class OverMpi(Transport):
    """One tower on this rank, its partner (if any) on the other rank of `pair_comm`.

    Reductions run in a thread of their own: a nonblocking collective advances only inside MPI calls, and the
    main thread is computing. The thread has its own communicator, so that their messages are never mixed up.
    """

    name = "MPI"

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology)
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise UserError(
                "This MPI library was started without MPI_THREAD_MULTIPLE, which training needs; "
                "use one that has it, or --transport torch."
            )
        self._pair = topology.pair_comm
        self._background = topology.tower_comm.Dup()
        self._foreground = topology.tower_comm
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="all-reduce")
        self._staged = topology.device.type != "cpu" and not takes_gpu_memory(topology)
        self._stages: dict[str, Tensor] = {}
        if topology.device.type != "cpu":
            self.name = f"MPI {'through host' if self._staged else 'from GPU'} memory"

    def _sendrecv(self, mine: Tensor) -> Tensor:
        rows = torch.channels_last if mine.dim() == 4 else torch.contiguous_format
        mine = mine.contiguous(memory_format=rows)
        theirs = torch.empty_like(mine)
        sent, received = _bytes(mine), _bytes(theirs)
        if self._staged:
            outbox, inbox = (self._stage(name, sent) for name in ("outbox", "inbox"))
            outbox.copy_(sent)  # waits for the GPU's stream, so that MPI sends the results
            self._exchange(outbox, inbox)
            received.copy_(inbox)
        else:
            _finish(mine.device)
            self._exchange(sent, received)
        return theirs

    def _exchange(self, sent: Tensor, received: Tensor) -> None:
        partner = 1 - self._index
        self._pair.Sendrecv(_buffer(sent), dest=partner, recvbuf=_buffer(received), source=partner)

    def _stage(self, name: str, like: Tensor) -> Tensor:
        """Pinned host memory for a flat tensor on a GPU, kept for the next call."""
        kept = self._stages.get(name)
        if kept is None or kept.numel() < like.numel() or kept.dtype != like.dtype:
            kept = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")
            self._stages[name] = kept
        return kept[: like.numel()]

    def all_reduce_async(self, flat: Tensor) -> Pending:
        return self._thread.submit(self.reduce, flat)

    def reduce(self, flat: Tensor) -> None:
        """Sum `flat` over the pairs, now, in the calling thread."""
        if self._background.size == 1:
            return
        host = self._stage("reduction", flat) if self._staged else flat
        if self._staged:
            host.copy_(flat)
        if host.dtype == torch.bfloat16:
            self._reduce_bfloat16(host, self._background.rank, self._background.size)
        else:
            _finish(host.device)
            self._background.Allreduce(MPI.IN_PLACE, _buffer(host))
        if self._staged:
            flat.copy_(host)

    def _exchange_with(self, others: list[int], sent: list[Tensor], received: list[Tensor]) -> None:
        # MPI_Alltoallv would copy a rank's own part too, and MPICH 5's MPI_Allgatherv takes ten times as long
        # for arrays of this size.
        world = self._background
        # Not sooner: kernels that are queued may still use the memory that `received` was given.
        _finish(sent[0].device)
        _wait_all(
            [world.Irecv(_buffer(x), source=r) for r, x in zip(others, received, strict=True)]
            + [world.Isend(_buffer(x), dest=r) for r, x in zip(others, sent, strict=True)]
        )

    def all_reduce_scalars(self, values: Tensor) -> Tensor:
        out = values.to("cpu", torch.float64, copy=True)
        self._foreground.Allreduce(MPI.IN_PLACE, out.numpy())
        return out


def _wait_all(requests: list[MPI.Request]) -> None:
    """Until messages have arrived."""
    MPI.Request.Waitall(requests)


def _bytes(x: Tensor) -> Tensor:
    """The memory of a dense tensor, as uint8 [N]."""
    rows = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
    return rows.view(torch.uint8).view(-1)


def _buffer(x: Tensor) -> Any:
    """The tensor as mpi4py accepts it: a NumPy array, or on a GPU the tensor itself."""
    x = x.view(torch.uint16) if x.dtype == torch.bfloat16 else x
    return x.numpy() if x.device.type == "cpu" else x


def _finish(device: torch.device) -> None:
    """Wait for the GPU's stream, which MPI knows nothing of."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def takes_gpu_memory(topology: Topology) -> bool:
    """Whether MPI accepts GPU memory on every rank: the library claims it and a trial sum is right.

    The claim is `mpi_memory_alloc_kinds` of MPI 4.1.
    """
    claimed = "cuda" in (MPI.COMM_WORLD.Get_info().get("mpi_memory_alloc_kinds") or "")
    if not topology.world.allreduce(claimed and topology.device.type == "cuda", MPI.LAND):
        return False
    probe = torch.full((1024,), 1.0, device=topology.device)
    _finish(topology.device)
    topology.world.Allreduce(MPI.IN_PLACE, probe)
    right = bool((probe == topology.world.size).all())
    return bool(topology.world.allreduce(right, MPI.LAND))
