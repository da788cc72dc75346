"""mpi4py's MPI; where it has no MPI library, a world of one rank (one_rank.py).

One process with both towers needs no MPI library. Several ranks need one: without it each would train alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from preprocess.shared.open_files import lacking_open_files
from preprocess.shared.units import size
from trainer.parallel import launcher

PER_RANK, PER_HOST = 7 * 2**20, 3 * 2**20
"""Bytes of /dev/shm that MPICH 5 needs: 10.5 MB for 2 ranks of a host, 42 MB for 8 (measured). With less, or
barely more, it ends in a bus error or a segmentation fault."""


FILES = 64
"""Open files that a rank needs besides one for each rank. With 24 in all UCX ends it in the middle."""


def load() -> ModuleType:
    """mpi4py.MPI or one_rank.

    Ends the process, with a sentence of one rank, where several ranks were started without an MPI library, or
    with too little shared memory or too few open files.
    """
    ranks = int(os.environ.get("MPI_LOCALNRANKS", "1"))  # of MPICH's launcher
    lacking = lacking_shared_memory(ranks)
    if ranks > 1 and not lacking and (files := lacking_open_files(FILES + ranks)):
        lacking = f"{ranks} ranks of a host need {files}"
    if lacking:
        if os.environ.get("MPI_LOCALRANKID", "0") == "0":
            print(f"error: {lacking}.", file=sys.stderr, flush=True)
        raise SystemExit(1)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py is missing; its wheel finds no MPI library
        if launcher.size() > 1:
            if launcher.rank() == 0:
                sentence = f"{launcher.size()} ranks were started, but mpi4py finds no MPI library ({error})"
                remedy = "source .venv/bin/activate, or make setup; or start one process, without mpirun"
                print(f"error: {sentence}: {remedy}.", file=sys.stderr, flush=True)
            raise SystemExit(1) from None
        from trainer.parallel import one_rank

        return one_rank
    return MPI


def lacking_shared_memory(ranks: int) -> str:
    """A sentence where /dev/shm is too small for so many ranks of this host; "" where it is not."""
    if ranks == 1 or sys.platform != "linux":
        return ""
    needed, free = PER_HOST + PER_RANK * ranks, 0
    if os.access("/dev/shm", os.W_OK):
        free = shutil.disk_usage("/dev/shm").free
    if free >= needed:
        return ""
    remedy = "make it larger: docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm"
    return f"/dev/shm has {size(free)} free, and {ranks} ranks of a host need {size(needed)} there; {remedy}"


if TYPE_CHECKING:
    from mpi4py import MPI
else:
    MPI = load()
