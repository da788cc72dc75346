"""How tensors travel: between the two towers of a pair, and between the pairs.

A transport offers the exchanges of the network, each with its adjoint, and the sum of gradients:

    gather   both towers' halves -> the whole      adjoint: both towers' gradients of each half, summed
    sum      both towers' shares -> the logits     adjoint: the same gradient for both
    reduce   one flat buffer, summed in place over all ranks that hold the same tower, in the background

They are written once, on top of three primitives: swap a tensor with the partner, start a reduction, total a
few numbers. `OneProcess` moves nothing; mpi_transport.py and torch_transport.py are the two that do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from trainer.parallel.topology import Topology


class Pending(Protocol):
    """A reduction under way."""

    def result(self) -> None:
        """Wait until it is done; raises what went wrong."""


class Done:
    """Nothing to wait for."""

    def result(self) -> None:
        """At once."""


class Transport(ABC):
    """What the step needs. Lists hold one tensor for each tower on this rank."""

    def __init__(self, topology: Topology) -> None:
        self._pair_size = topology.pair_comm.size
        self.towers = len(topology.towers) * self._pair_size
        """Towers of the whole network."""
        self._partner = self._pair_size == 2
        self._index = topology.pair_comm.rank

    def pair_all_gather(self, parts: list[Tensor]) -> Tensor:
        """Tower a's channels, then tower b's, along dimension 1."""
        everyone = self._both(parts[0]) if self._partner else parts
        return torch.cat(everyone, dim=1) if len(everyone) > 1 else everyone[0]

    def pair_reduce_scatter(self, grad: Tensor) -> list[Tensor]:
        """From this rank's gradient of the whole, the gradient of each part that it holds."""
        if not self._partner:
            # Autograd has summed all towers' gradients already, for they read the same tensor.
            return list(grad.chunk(self.towers, dim=1))
        halves = grad.chunk(2, dim=1)
        return [halves[self._index] + self._sendrecv(halves[1 - self._index])]

    def pair_all_reduce(self, shares: list[Tensor]) -> Tensor:
        """The towers' shares, added up. The adjoint hands each tower the same gradient: nothing travels."""
        everyone = self._both(shares[0]) if self._partner else shares
        return everyone[0] + everyone[1] if len(everyone) > 1 else everyone[0]

    def _both(self, mine: Tensor) -> list[Tensor]:
        theirs = self._sendrecv(mine)
        return [mine, theirs] if self._index == 0 else [theirs, mine]

    @abstractmethod
    def _sendrecv(self, mine: Tensor) -> Tensor:
        """The partner's tensor, of the same shape and dtype, for mine; its memory format is mine's."""

    @abstractmethod
    def all_reduce_async(self, flat: Tensor) -> Pending:
        """Begin to sum `flat`, float32 or bfloat16 [N], over the pairs, in place; the result says when that
        is done."""

    @abstractmethod
    def all_reduce_scalars(self, values: Tensor) -> Tensor:
        """Sum a few numbers over the pairs, at once; float64 on the host."""


class OneProcess(Transport):
    """All towers on this rank, and no other pairs: nothing travels."""

    def _sendrecv(self, mine: Tensor) -> Tensor:
        raise AssertionError("there is no partner")

    def all_reduce_async(self, flat: Tensor) -> Pending:
        return Done()

    def all_reduce_scalars(self, values: Tensor) -> Tensor:
        return values.double().cpu()
