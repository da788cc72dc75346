"""The exchanges of tensors: between the two towers of a pair, and between the pairs.

    pair_all_gather      both towers' halves -> the whole
    pair_reduce_scatter  its adjoint: the gradients of each half, summed over both towers
    pair_all_reduce      both towers' shares -> the logits; its adjoint gives both towers the same gradient
    all_reduce_async     sums one flat array in place over all ranks that hold the same tower
    all_reduce_scalars   sums a few numbers over the same ranks

Sums are float32. Of bfloat16 numbers each rank sums one share in float32, rounds it once and sends it to the
others. A library's own all-reduce would round after each addition.

The first three need one primitive, `_sendrecv` with the partner. `OneProcess` exchanges nothing;
mpi_transport.py and torch_transport.py are the other two kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from trainer import kernels
from trainer.parallel.topology import Topology


class Pending(Protocol):
    """A reduction in progress."""

    def result(self) -> None:
        """Wait until it is done. Raises the error of a reduction that failed."""


class Done:
    """Nothing to wait for."""

    def result(self) -> None:
        """At once."""


class Transport(ABC):
    """All exchanges of a step. Lists hold one tensor for each tower on this rank."""

    name = ""
    """The library that carries them, for the user."""

    def __init__(self, topology: Topology) -> None:
        self._pair_size = topology.pair_comm.size
        self.towers = len(topology.towers) * self._pair_size
        """Towers of the whole network."""
        self._partner = self._pair_size == 2
        self._index = topology.pair_comm.rank

    def pair_all_gather(self, parts: list[Tensor]) -> Tensor:
        """Both towers' outputs joined along dimension 1, tower a's first."""
        everyone = self._both(parts[0]) if self._partner else parts
        return torch.cat(everyone, dim=1) if len(everyone) > 1 else everyone[0]

    def pair_reduce_scatter(self, grad: Tensor) -> list[Tensor]:
        """The adjoint of `pair_all_gather`: the gradient of the whole -> those of this rank's parts."""
        if not self._partner:
            # Both towers read the same tensor here, so that autograd has summed their gradients.
            return list(grad.chunk(self.towers, dim=1))
        halves = grad.chunk(2, dim=1)
        return [halves[self._index] + self._sendrecv(halves[1 - self._index])]

    def pair_all_reduce(self, shares: list[Tensor]) -> Tensor:
        """The sum of the towers' shares. Its adjoint needs no exchange: each tower gets the same gradient."""
        everyone = self._both(shares[0]) if self._partner else shares
        return everyone[0] + everyone[1] if len(everyone) > 1 else everyone[0]

    def _both(self, mine: Tensor) -> list[Tensor]:
        theirs = self._sendrecv(mine)
        return [mine, theirs] if self._index == 0 else [theirs, mine]

    @abstractmethod
    def _sendrecv(self, mine: Tensor) -> Tensor:
        """The partner's tensor, of the same shape and dtype, for mine; its memory format is mine's."""

    def _reduce_bfloat16(self, flat: Tensor, rank: int, size: int) -> None:
        """Sum `flat`, bfloat16 [N], over the pairs, in place; rank, size: of this rank among them."""
        ends = [len(flat) * r // size for r in range(size + 1)]
        shares = [flat[begin:end] for begin, end in pairwise(ends)]
        own, others = shares[rank], [r for r in range(size) if r != rank]
        theirs = flat.new_empty(len(others), len(own))
        self._exchange_with(others, [shares[r] for r in others], list(theirs))
        kernels.sum_rows_(own, theirs)
        self._exchange_with(others, [own] * len(others), [shares[r] for r in others])

    @abstractmethod
    def _exchange_with(self, others: list[int], sent: list[Tensor], received: list[Tensor]) -> None:
        """Send one flat tensor to each of these pairs and receive one from each, all at the same time."""

    @abstractmethod
    def all_reduce_async(self, flat: Tensor) -> Pending:
        """Begin to sum `flat`, float32 or bfloat16 [N], over the pairs, in place."""

    @abstractmethod
    def all_reduce_scalars(self, values: Tensor) -> Tensor:
        """The sums of a few numbers over the pairs, float64 on the host."""


class OneProcess(Transport):
    """All towers on this rank, and no other pairs: no exchange."""

    def _sendrecv(self, mine: Tensor) -> Tensor:
        raise AssertionError("there is no partner")

    def _exchange_with(self, others: list[int], sent: list[Tensor], received: list[Tensor]) -> None:
        raise AssertionError("there are no other pairs")

    def all_reduce_async(self, flat: Tensor) -> Pending:
        return Done()

    def all_reduce_scalars(self, values: Tensor) -> Tensor:
        return values.double().cpu()
