"""Who is who: MPI's world -> pairs, towers, hosts, devices. Named once, passed along, never a global.

    rank     0   1   2   3   4   5 ...
    pair     0   0   1   1   2   2
    tower    a   b   a   b   a   b

`pair_comm` joins the two towers of a pair: activations travel there. `tower_comm` joins all ranks that hold
the same tower: gradients are summed there. One rank alone holds both towers. A network of one tower makes
every rank a "pair" of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import torch
from mpi4py import MPI

from trainer import kernels
from trainer.errors import UserError, as_disk_failure
from trainer.model.network import TOWERS, TowerName
from trainer.parallel import interrupt
from trainer.parallel.malloc import configure_malloc
from trainer.parallel.output import outlives_reader

T = TypeVar("T")
N = TypeVar("N", int, float)

# What launchers tell a rank about the size of its world.
LAUNCHER_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "SLURM_STEP_NUM_TASKS")


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
        """Rank 0 speaks to the user and keeps the run's log."""
        return self.world.rank == 0

    def describe(self) -> str:
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

    Raises UserError for an odd number of ranks above one, for a pair on two hosts, for ranks that their
    launcher does not know, and for a GPU that is not there.
    """
    size, rank = world.size, world.rank
    for name in LAUNCHER_SIZES:
        said = os.environ.get(name, "")
        if world is MPI.COMM_WORLD and size == 1 and said.isdigit() and int(said) > 1:
            raise UserError(
                f"The launcher started {said} ranks, but each believes it is alone: mpirun and mpi4py "
                "belong to different MPI libraries; use the mpirun of the library that mpi4py was built for."
            )
    if size % towers and size > 1:
        raise UserError(
            f"{size} ranks cannot be paired: two towers need two ranks; "
            f"start {size - 1} or {size + 1} ranks, or one rank to hold both towers."
        )
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    pair_comm = world.Split(rank // towers, rank)
    _refuse_cut_pairs(world, pair_comm)
    threads = max(1, len(os.sched_getaffinity(0)) // host.size)
    configure_malloc()
    kernels.set_threads(threads)
    return Topology(
        world=world,
        pair_comm=pair_comm,
        tower_comm=world.Split(rank % towers, rank),
        pair=rank // towers,
        pairs=max(1, size // towers),
        towers=TOWERS[:towers] if size == 1 else (TOWERS[rank % towers],),
        device=_device(device, host.rank),
        threads=threads,
        own_gpu=world.allreduce(torch.cuda.device_count() >= host.size, MPI.LAND),
        hosts=tuple(world.allgather(MPI.Get_processor_name())),
    )


def first_on_each_host(world: MPI.Comm, work: Callable[[], None], ranks: int = 1) -> None:
    """The first ranks of every host do `work`, which leaves something on its disk; the others sleep until
    then."""
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    if host.rank < ranks:
        work()
    done = host.Ibarrier()
    while not done.Test():
        time.sleep(0.01)
    host.Free()


def _refuse_cut_pairs(world: MPI.Comm, pair_comm: MPI.Comm) -> None:
    """A pair trades activations seven times a step: never across the network. All ranks raise the same."""
    together = pair_comm.Split_type(MPI.COMM_TYPE_SHARED).size == pair_comm.size
    hosts = pair_comm.allgather(MPI.Get_processor_name())
    for pair, cut in enumerate(world.allgather(None if together else hosts)[::2]):
        if cut is not None:
            raise UserError(
                f"Ranks {2 * pair} and {2 * pair + 1} are a pair on two hosts, {cut[0]} and {cut[1]}; a pair "
                "must share one: give each host an even number of ranks in a row, as --ntasks-per-node=4 or "
                "mpirun -ppn 4 does."
            )


def _device(wish: str, host_rank: int) -> torch.device:
    """Rank i of a host takes GPU i; where ranks outnumber GPUs they share them."""
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here; use --device cpu or --device auto.")
    device = torch.device("cuda", host_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def abort_all_on_error(world: MPI.Comm = MPI.COMM_WORLD, resumable: bool = False) -> Iterator[None]:
    """Whatever ends one rank ends all within seconds, with that rank's message and a code that is not 0.

    An uncaught exception or sys.exit on one rank would leave the others waiting in a collective for ever. All
    ranks enter together. `resumable`: the same command goes on from a checkpoint, which the user is told.
    """
    if interrupt.is_command() or world.size > 1:
        interrupt.end_at_once(resumable)
    meeting = world.Dup() if world.size > 1 else None
    _unlink_shared_memory()

    def thread_failed(args: Any) -> None:
        _report(as_disk_failure(args.exc_value, resumable) or args.exc_value, world)
        _abort(world, 1)

    threading.excepthook = thread_failed
    with outlives_reader():
        try:
            yield
        except SystemExit as leaving:
            if leaving.code in (None, 0) or meeting is None:
                raise
            _leave(world, meeting, leaving.code if isinstance(leaving.code, int) else 1)
        except KeyboardInterrupt:
            if world.size > 1:
                _abort(world, interrupt.CODE)
            raise SystemExit(interrupt.CODE) from None
        except BaseException as error:
            mendable = error if isinstance(error, UserError) else as_disk_failure(error, resumable)
            if mendable and meeting:
                _leave(world, meeting, 1, mendable)
            _report(mendable or error, world)
            if world.size == 1:
                raise SystemExit(1) from None
            _abort(world, 1)


ALONE = 5.0
"""Seconds after which a rank that fails takes it that the others do not fail too."""


def _leave(world: MPI.Comm, meeting: MPI.Comm, code: int, error: UserError | None = None) -> NoReturn:
    """End with a code that is not 0, and with a sentence or without one.

    What a user did wrong is found by every rank at once: then rank 0 alone prints the sentence, and all leave
    through MPI_Finalize. A rank that fails alone prints its own and aborts.
    """
    if error and world.rank == 0:
        _report(error, world)
    met = meeting.Ibarrier()
    until = time.monotonic() + ALONE + (2 if world.rank else 0)  # where several fail, rank 0 comes first
    while not met.Test():
        if time.monotonic() > until:
            if error and world.rank != 0:
                _report(error, world)
            _abort(world, code)
        time.sleep(0.01)
    raise SystemExit(meeting.allreduce(code, MPI.MAX)) from None


def _unlink_shared_memory() -> None:
    """Remove the name of MPICH's shared memory: the memory is freed with the last rank, however that ends.

    Every rank of the host has it mapped by now. MPICH itself removes the name in MPI_Finalize alone, to which
    a rank that aborts or is killed does not come: each would leave 1 to 8 MB in /dev/shm. Open MPI's launcher
    tidies up itself.
    """
    with contextlib.suppress(OSError):  # no /proc
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.rpartition(" ")[2]
            if path.startswith("/dev/shm/mpich_shm_"):
                Path(path).unlink(missing_ok=True)


def _report(error: BaseException | None, world: MPI.Comm) -> None:
    where = f"rank {world.rank} on {MPI.Get_processor_name()}: " if world.size > 1 else ""
    if isinstance(error, UserError):
        alone = where if world.rank != 0 else ""  # what all ranks find rank 0 says; this one found it alone
        print(f"error: {alone}{error}", file=sys.stderr, flush=True)
    elif error is not None:
        lines = "".join(traceback.format_exception(error))
        print(f"{lines}error: {where}{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _abort(world: MPI.Comm, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(1)  # the launcher passes the message on, or Abort could end it before it has
    world.Abort(code)
    os._exit(code)  # MPICH's Abort can return to its caller before the launcher ends it


def end_all(error: UserError, world: MPI.Comm = MPI.COMM_WORLD) -> NoReturn:
    """From any thread: end all ranks with this one's sentence; rank 0 comes first where several have one."""
    if world.rank != 0:
        time.sleep(5)
    _report(error, world)
    _abort(world, 1)


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
    """Rank 0 alone looks at the disk and decides: all ranks get its result, or raise its UserError.

    A disk that is full or cannot be reached is a UserError too.
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


def max_over_ranks(topology: Topology, value: N) -> N:
    """The largest of all ranks' values: of codes, so that all ranks leave the loop at the same step."""
    largest: N = topology.world.allreduce(value, MPI.MAX)
    return largest
