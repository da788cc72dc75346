"""The part of mpi4py.MPI that parallel/ and its users need, for a world of one rank. It needs no MPI library.

A communicator of one rank sends nothing: every collective returns what this rank gives.
"""

# ruff: noqa: N802, the names of mpi4py

from __future__ import annotations

import os
import socket
from typing import NoReturn, TypeVar

T = TypeVar("T")

COMM_TYPE_SHARED = LAND = LOR = MAX = None


class Request:
    """An operation that is complete."""

    def Test(self) -> bool:
        return True


class Comm:
    """A communicator of one rank."""

    rank, size = 0, 1

    def Dup(self) -> Comm:
        return Comm()

    def Split(self, color: int = 0, key: int = 0) -> Comm:
        return Comm()

    def Split_type(self, split_type: None) -> Comm:
        return Comm()

    def Free(self) -> None:
        pass

    def Barrier(self) -> None:
        pass

    def Ibarrier(self) -> Request:
        return Request()

    def bcast(self, value: T) -> T:
        return value

    def gather(self, value: T) -> list[T]:
        return [value]

    def allgather(self, value: T) -> list[T]:
        return [value]

    def allreduce(self, value: T, op: None) -> T:
        return value

    def Abort(self, code: int) -> NoReturn:
        os._exit(code)


COMM_WORLD = Comm()


def Get_processor_name() -> str:
    return socket.gethostname()
