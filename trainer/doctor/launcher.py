"""MPI: does the launcher start ranks that know each other, and what may each of them use?"""

from __future__ import annotations

import os
import shutil

from trainer.doctor.finding import Finding, attempt
from trainer.doctor.software import SETUP

RANK = """
import json, os
from mpi4py import MPI
w = MPI.COMM_WORLD
multiple = MPI.Query_thread() >= MPI.THREAD_MULTIPLE
library = MPI.get_vendor()
library = library[0] + " " + ".".join(map(str, library[1]))
mine = [w.rank, w.size, sorted(os.sched_getaffinity(0)), multiple, library]
everyone = w.gather(mine)
if w.rank == 0:
    print(json.dumps(everyone), flush=True)
"""

UNBIND = "mpirun --bind-to none"


def mpi(ranks: int) -> list[Finding]:
    """Start `ranks` ranks, as training would, and have them say who they are."""
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        return [
            Finding("fail", "MPI", "there is no mpirun on the PATH", f"source .venv/bin/activate, or {SETUP}")
        ]
    tried = attempt(mpirun, "-n", str(ranks), script=RANK)
    worlds = [value for value in tried.values if isinstance(value, list)]
    if not worlds:
        alone = attempt(script=RANK)
        if not alone.values:
            return [Finding("fail", "MPI", f"mpi4py does not start: {alone.failure}", SETUP)]
        says = f"{mpirun} -n {ranks} fails: {tried.failure or 'nothing came back'}"
        return [
            Finding("fail", "MPI", says, f"mpi4py speaks {alone.values[0][0][4]}: use its mpirun; {SETUP}")
        ]
    return judge(mpirun, ranks, worlds)


def judge(mpirun: str, ranks: int, worlds: list[list[list[object]]]) -> list[Finding]:
    """From what the ranks said: [rank, size, cores, threads allowed, library] each, a list for each world."""
    library = worlds[0][0][4]
    if len(worlds) > 1 or len(worlds[0]) != ranks:
        says = f"{mpirun} started {ranks} ranks that each believe to be alone; mpi4py speaks {library}"
        return [Finding("fail", "MPI", says, f"use the mpirun of {library}, or remove .venv and: {SETUP}")]
    said = worlds[0]
    if not all(rank[3] for rank in said):
        remedy = f"an MPI with MPI_THREAD_MULTIPLE is needed: {SETUP}"
        return [Finding("fail", "MPI", f"{library} allows no threads", remedy)]
    found = [Finding("ok", "MPI", f"{library}, {ranks} ranks started by {mpirun}")]
    cores = [frozenset(rank[2]) for rank in said if isinstance(rank[2], list)]
    mine = os.sched_getaffinity(0)
    used = frozenset().union(*cores)
    if len(used) < min(len(mine), ranks):
        says = f"{ranks} ranks are bound to {len(used)} of {len(mine)} cores and share them"
        return [*found, Finding("warn", "binding", says, UNBIND)]
    if len(used) < len(mine):
        says = f"the ranks are bound to {len(used)} of {len(mine)} cores; the others stay idle"
        return [*found, Finding("warn", "binding", says, UNBIND)]
    each = max(1, len(mine) // ranks)
    return [*found, Finding("ok", "binding", f"{len(mine)} cores, {each} thread{'s' * (each > 1)} a rank")]
