"""Ending all ranks: whatever ends one rank ends all of them within seconds, with that rank's message."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from mpi4py import MPI

from trainer.errors import UserError, as_disk_failure
from trainer.parallel import interrupt
from trainer.parallel.output import outlives_reader


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
