"""MPI: whether mpirun starts ranks of one world, and which cores each rank may use."""

from __future__ import annotations

import shutil

from preprocess.shared.cores import available_cores
from trainer.doctor.finding import Finding, attempt
from trainer.doctor.software import SETUP

RANK = """
import json, os
from mpi4py import MPI
w = MPI.COMM_WORLD
cores = getattr(os, 'sched_getaffinity', lambda process: range(os.cpu_count()))
multiple = MPI.Query_thread() >= MPI.THREAD_MULTIPLE
library = MPI.get_vendor()
library = library[0] + " " + ".".join(map(str, library[1]))
ranks = w.gather([w.rank, w.size, sorted(cores(0)), multiple, library])
if w.rank == 0:
    print(json.dumps(ranks), flush=True)
"""

UNBIND = "mpirun --bind-to none"


def mpi(ranks: int) -> list[Finding]:
    """Start this number of ranks, as training would, and check what they report."""
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        text = "there is no mpirun on the PATH: both towers train in one process, without MPI"
        return [Finding("warn", "MPI", text, f"for more ranks: source .venv/bin/activate, or {SETUP}")]
    outcome = attempt(mpirun, "-n", str(ranks), script=RANK)
    worlds = [value for value in outcome.values if isinstance(value, list)]
    if not worlds:
        alone = attempt(script=RANK)
        if not alone.values:
            return [Finding("fail", "MPI", f"mpi4py does not start: {alone.failure}", SETUP)]
        text = f"{mpirun} -n {ranks} fails: {outcome.failure or 'it printed nothing'}"
        library = alone.values[0][0][4]
        return [Finding("fail", "MPI", text, f"mpi4py uses {library}: use its mpirun; {SETUP}")]
    return check_ranks(mpirun, ranks, worlds)


def check_ranks(mpirun: str, ranks: int, worlds: list[list[list[object]]]) -> list[Finding]:
    """Findings from the ranks' reports, a list for each MPI world.

    A report is [rank, size, cores, whether MPI_THREAD_MULTIPLE is supported, library].
    """
    library = worlds[0][0][4]
    if len(worlds) > 1 or len(worlds[0]) != ranks:
        text = f"{mpirun} started {ranks} ranks that are not in one world; mpi4py uses {library}"
        return [Finding("fail", "MPI", text, f"use the mpirun of {library}, or remove .venv and: {SETUP}")]
    reports = worlds[0]
    if not all(rank[3] for rank in reports):
        remedy = f"an MPI with MPI_THREAD_MULTIPLE is needed: {SETUP}"
        return [Finding("fail", "MPI", f"{library} does not support threads", remedy)]
    found = [Finding("ok", "MPI", f"{library}, {ranks} ranks started by {mpirun}")]
    cores = [frozenset(rank[2]) for rank in reports if isinstance(rank[2], list)]
    allowed = available_cores()
    used = frozenset().union(*cores)
    if len(used) < min(allowed, ranks):
        text = f"{ranks} ranks are bound to {len(used)} of {allowed} cores and share them"
        return [*found, Finding("warn", "binding", text, UNBIND)]
    if len(used) < allowed:
        text = f"the ranks are bound to {len(used)} of {allowed} cores; the others are idle"
        return [*found, Finding("warn", "binding", text, UNBIND)]
    each = max(1, allowed // ranks)
    text = f"{allowed} cores, {each} thread{'s' * (each > 1)} per rank"
    return [*found, Finding("ok", "binding", text)]
