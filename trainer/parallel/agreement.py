"""Decisions that all ranks share: rank 0 looks at the disk, settings are compared, values are joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from trainer.errors import UserError, as_disk_failure
from trainer.parallel.mpi import MPI
from trainer.parallel.topology import Topology

T = TypeVar("T")
N = TypeVar("N", int, float)


def check_same_on_all_ranks(topology: Topology, facts: dict[str, str]) -> None:
    """Raise UserError on all ranks, with the ranks, hosts and values, when not all hold the same facts."""
    of_all = topology.world.allgather(facts)
    for rank, theirs in enumerate(of_all):
        for name in sorted({*of_all[0], *theirs}):
            first, other = of_all[0].get(name), theirs.get(name)
            if first != other:
                raise UserError(
                    f"The ranks must agree on {name}: rank 0 on {topology.hosts[0]} has {first}, "
                    f"rank {rank} on {topology.hosts[rank]} has {other}."
                )


def on_root(world: MPI.Comm, work: Callable[[], T]) -> T:
    """Call `work` on rank 0 alone; all ranks get its result, or raise its UserError.

    A full disk, or one that cannot be reached, is a UserError too.
    """
    found: T | UserError | None = None
    if world.rank == 0:
        try:
            found = work()
        except UserError as error:
            found = error
        except OSError as error:
            found = as_disk_failure(error, resumable=True)
            if found is None:
                raise
    found = world.bcast(found)
    if isinstance(found, UserError):
        raise found
    return cast(T, found)


def any_rank(world: MPI.Comm, value: bool) -> bool:
    """Whether the value is true on any rank."""
    return bool(world.allreduce(value, MPI.LOR))


def max_over_ranks(topology: Topology, value: N) -> N:
    """The largest of all ranks' values, on all ranks: for example of exit codes."""
    largest: N = topology.world.allreduce(value, MPI.MAX)
    return largest
