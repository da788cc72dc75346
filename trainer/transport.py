"""How tensors travel: between the two towers of a pair, and between the pairs.

A transport offers the four exchanges of the network, each with its adjoint, and the sum of gradients:

    gather   both towers' halves -> the whole      adjoint: both towers' gradients of each half, summed
    sum      both towers' shares -> the logits     adjoint: the same gradient for both
    reduce   one flat buffer, summed in place over all ranks that hold the same tower, in the background

`OneProcess` holds both towers and moves nothing. `OverMpi` swaps halves with the partner through host
memory; tensors on a GPU are staged through it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from mpi4py import MPI
from torch import Tensor

from trainer.topology import Topology


class Transport(Protocol):
    """What the step needs. Lists hold one tensor for each tower on this rank."""

    def gather(self, halves: list[Tensor]) -> Tensor:
        """Tower a's channels, then tower b's, along dimension 1."""

    def gather_adjoint(self, grad: Tensor) -> list[Tensor]:
        """From this rank's gradient of the whole, the gradient of each half that it holds."""

    def sum(self, shares: list[Tensor]) -> Tensor:
        """The towers' shares, added up. The adjoint hands each tower the same gradient: nothing travels."""

    def start_reduce(self, flat: Tensor) -> Future[None]:
        """Begin to sum `flat`, float32 [N], over the pairs, in place; the result says when it is done."""

    def total(self, values: Tensor) -> Tensor:
        """Sum a few numbers over the pairs, at once; float64 on the host."""


class OneProcess:
    """Both towers on this rank: a gather is a concatenation. There are no other pairs."""

    def gather(self, halves: list[Tensor]) -> Tensor:
        return torch.cat(halves, dim=1)

    def gather_adjoint(self, grad: Tensor) -> list[Tensor]:
        # Autograd has summed both towers' gradients already, for both read the same tensor.
        return list(grad.chunk(2, dim=1))

    def sum(self, shares: list[Tensor]) -> Tensor:
        return shares[0] + shares[1]

    def start_reduce(self, flat: Tensor) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def total(self, values: Tensor) -> Tensor:
        return values


class OverMpi:
    """One tower on this rank, its partner at the other end of `pair_comm`.

    Reductions run in a thread of their own: a nonblocking collective advances only inside MPI calls, and the
    main thread is computing. The thread has its own communicator, so that the two never meet.
    """

    def __init__(self, topology: Topology) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise RuntimeError("this MPI library was started without MPI_THREAD_MULTIPLE, which is needed")
        self._pair = topology.pair_comm
        self._index = topology.pair_comm.rank
        self._background = topology.tower_comm.Dup()
        self._foreground = topology.tower_comm
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="all-reduce")

    def _swap(self, mine: Tensor) -> Tensor:
        """The partner's tensor, of the same shape and dtype, for mine; its memory format is mine's."""
        host = mine.cpu()  # waits for a GPU's stream, so that MPI reads finished numbers
        if host.dim() == 4:
            host = host.contiguous(memory_format=torch.channels_last)
            theirs = torch.empty_like(host)
            sent, received = (t.permute(0, 2, 3, 1) for t in (host, theirs))
        else:
            sent = host.contiguous()
            received = theirs = torch.empty_like(sent)
        self._pair.Sendrecv(
            sent.view(torch.uint8).numpy(),
            dest=1 - self._index,
            recvbuf=received.view(torch.uint8).numpy(),
            source=1 - self._index,
        )
        return theirs.to(mine.device)

    def _in_order(self, mine: Tensor, theirs: Tensor) -> list[Tensor]:
        return [mine, theirs] if self._index == 0 else [theirs, mine]

    def gather(self, halves: list[Tensor]) -> Tensor:
        (mine,) = halves
        return torch.cat(self._in_order(mine, self._swap(mine)), dim=1)

    def gather_adjoint(self, grad: Tensor) -> list[Tensor]:
        parts = grad.chunk(2, dim=1)
        return [parts[self._index] + self._swap(parts[1 - self._index])]

    def sum(self, shares: list[Tensor]) -> Tensor:
        (mine,) = shares
        first, second = self._in_order(mine, self._swap(mine))
        return first + second

    def start_reduce(self, flat: Tensor) -> Future[None]:
        return self._thread.submit(self._reduce, flat)

    def _reduce(self, flat: Tensor) -> None:
        if self._background.size == 1:
            return
        host = flat.cpu()
        self._background.Allreduce(MPI.IN_PLACE, host.numpy())
        if flat.device.type != "cpu":
            flat.copy_(host)

    def total(self, values: Tensor) -> Tensor:
        out = values.double().cpu()
        self._foreground.Allreduce(MPI.IN_PLACE, out.numpy())
        return out


def connect(topology: Topology) -> Transport:
    """The transport that fits the topology."""
    return OneProcess() if topology.world.size == 1 else OverMpi(topology)
