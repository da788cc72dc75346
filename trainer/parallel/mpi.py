"""mpi4py's MPI; where it has no MPI library, a world of one rank (one_rank.py).

One process with both towers needs no MPI library. Several ranks need one: without it each would train alone.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from trainer.parallel import launcher


def load() -> ModuleType:
    """mpi4py.MPI or one_rank. Ends the process where several ranks were started without an MPI library."""
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


if TYPE_CHECKING:
    from mpi4py import MPI
else:
    MPI = load()
