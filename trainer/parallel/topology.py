"""Ranks -> pairs, towers, hosts and devices: made once, then passed along.

    rank     0   1   2   3   4   5 ...
    pair     0   0   1   1   2   2
    tower    a   b   a   b   a   b

`pair_comm` joins the two towers of a pair: activations travel there. `tower_comm` joins all ranks that hold
the same tower: gradients are summed there. One rank alone holds both towers. A network of one tower makes
every rank a "pair" of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from preprocess.shared.cores import available_cores
from trainer import kernels
from trainer.errors import UserError
from trainer.model.network import TOWERS, TowerName
from trainer.parallel import launcher
from trainer.parallel.device import choose_device, gpu_id
from trainer.parallel.malloc import configure_malloc
from trainer.parallel.mpi import MPI

Comm = MPI.Comm
"""For annotations in other folders, which do not import mpi4py."""


def world() -> Comm:
    """All ranks of this job."""
    return MPI.COMM_WORLD


@dataclass(frozen=True)
class Topology:
    """One rank's place."""

    world: MPI.Comm
    pair_comm: MPI.Comm
    tower_comm: MPI.Comm
    pair: int
    pairs: int
    towers: tuple[TowerName, ...]
    """The towers that this rank holds: one of them, or both when it is alone."""
    device: torch.device
    threads: int
    """Threads that this rank computes with: its host's cores over its host's ranks."""
    own_gpu: bool
    """Whether every rank of the job has a GPU to itself."""
    hosts: tuple[str, ...]
    """The name of each rank's host."""

    @property
    def rank(self) -> int:
        return self.world.rank

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which prints, and writes the run's log."""
        return self.world.rank == 0

    def describe(self) -> str:
        """One line for the user: ranks, pairs, device and threads."""
        size = self.world.size
        if size == 1:
            who = "1 process with " + ("both towers" if len(self.towers) == 2 else "the only tower")
        elif size == self.pairs:
            who = f"{size} ranks, each with the only tower"
        else:
            who = f"{size} ranks, {self.pairs} pair{'s' if self.pairs > 1 else ''} of towers"
        return f"{who}, {self.device.type}, {self.threads} thread{'s' if self.threads > 1 else ''} each"


def init_topology(device: str = "auto", world: MPI.Comm = MPI.COMM_WORLD, towers: int = 2) -> Topology:
    """Give every rank its pair, tower, device and threads, for a network of one tower or two.

    Also sets the threads of torch and Numba, and configures malloc.

    Raises UserError for an odd number of ranks above one, for a pair on two hosts, for ranks that their
    launcher does not know, and for a GPU that is not there.
    """
    size, rank = world.size, world.rank
    started = launcher.size()
    if world is MPI.COMM_WORLD and size == 1 and started > 1:
        raise UserError(
            f"The launcher started {started} ranks, but each believes it is alone: mpirun and mpi4py "
            "belong to different MPI libraries; use the mpirun of the library that mpi4py was built for."
        )
    if size % towers and size > 1:
        raise UserError(
            f"{size} ranks cannot be paired: two towers need two ranks; "
            f"start {size - 1} or {size + 1} ranks, or one rank to hold both towers."
        )
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    chosen = choose_device(device, host.rank)
    gpus = host.allgather(gpu_id(chosen))
    pair_comm = world.Split(rank // towers, rank)
    _refuse_cut_pairs(world, pair_comm)
    threads = max(1, available_cores() // host.size)
    configure_malloc()
    kernels.set_threads(threads)
    return Topology(
        world=world,
        pair_comm=pair_comm,
        tower_comm=world.Split(rank % towers, rank),
        pair=rank // towers,
        pairs=max(1, size // towers),
        towers=TOWERS[:towers] if size == 1 else (TOWERS[rank % towers],),
        device=chosen,
        threads=threads,
        own_gpu=world.allreduce(None not in gpus and len(set(gpus)) == host.size, MPI.LAND),
        hosts=tuple(world.allgather(MPI.Get_processor_name())),
    )


def first_on_each_host(world: MPI.Comm, work: Callable[[], None], ranks: int) -> None:
    """Call `work` on every host's first `ranks` ranks, which fills a cache on its disk; the others wait."""
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    if host.rank < ranks:
        work()
    done = host.Ibarrier()
    while not done.Test():
        time.sleep(0.01)
    host.Free()


def _refuse_cut_pairs(world: MPI.Comm, pair_comm: MPI.Comm) -> None:
    """Raise UserError on all ranks where a pair is on two hosts: a pair exchanges seven times a step."""
    together = pair_comm.Split_type(MPI.COMM_TYPE_SHARED).size == pair_comm.size
    hosts = pair_comm.allgather(MPI.Get_processor_name())
    for pair, cut in enumerate(world.allgather(None if together else hosts)[::2]):
        if cut is not None:
            raise UserError(
                f"Ranks {2 * pair} and {2 * pair + 1} are a pair on two hosts, {cut[0]} and {cut[1]}; a pair "
                "must share one: give each host an even number of ranks in a row, as --ntasks-per-node=4 or "
                "mpirun -ppn 4 does."
            )
