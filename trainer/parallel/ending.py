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

from preprocess.shared.names import shown
from trainer.errors import UserError, as_disk_failure
from trainer.parallel import interrupt
from trainer.parallel.mpi import MPI
from trainer.parallel.output import outlives_reader


@contextlib.contextmanager
def abort_all_on_error(world: MPI.Comm = MPI.COMM_WORLD, resumable: bool = False) -> Iterator[None]:
    """End all ranks within seconds when one ends, with that rank's message and an exit code that is not 0.

    After an uncaught exception or sys.exit on one rank the others would wait in a collective for ever. All
    ranks enter this together. `resumable`: the message says that the same command continues from a
    checkpoint.
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
"""Seconds that a failing rank waits for the others to fail too."""


def _leave(world: MPI.Comm, meeting: MPI.Comm, code: int, error: UserError | None = None) -> NoReturn:
    """End with an exit code that is not 0, and with a sentence or without one.

    Every rank finds a user's mistake at the same time: then rank 0 alone prints the sentence, and all ranks
    leave through MPI_Finalize. A rank that fails alone prints its own sentence and aborts.
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

    Every rank of the host has mapped it by now. MPICH removes the name in MPI_Finalize, which a rank that
    aborts or is killed never calls: each would leave 1 to 8 MB in /dev/shm. Open MPI's launcher removes it.
    """
    with contextlib.suppress(OSError):  # no /proc
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.rpartition(" ")[2]
            if path.startswith("/dev/shm/mpich_shm_"):
                Path(path).unlink(missing_ok=True)


def _report(error: BaseException | None, world: MPI.Comm) -> None:
    where = f"rank {world.rank} on {MPI.Get_processor_name()}: " if world.size > 1 else ""
    if isinstance(error, UserError):
        alone = where if world.rank != 0 else ""  # rank 0 prints what all ranks found
        print(f"error: {alone}{shown(error)}", file=sys.stderr, flush=True)
    elif error is not None:
        lines = "".join(traceback.format_exception(error))
        print(f"{lines}error: {where}{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _abort(world: MPI.Comm, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(1)  # for the launcher to pass the message on before Abort ends it
    world.Abort(code)
    os._exit(code)  # MPICH's Abort can return to its caller before the launcher ends it


def end_all(error: UserError, world: MPI.Comm = MPI.COMM_WORLD) -> NoReturn:
    """End all ranks with this rank's sentence, from any thread. Of several callers rank 0 prints."""
    if world.rank != 0:
        time.sleep(5)
    _report(error, world)
    _abort(world, 1)
