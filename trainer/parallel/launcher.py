"""The rank and the number of ranks, as a launcher tells them in the environment, before MPI starts."""

from __future__ import annotations

import os

RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "SLURM_STEP_NUM_TASKS")


def rank() -> int:
    """The rank of this process; 0 without a launcher."""
    return next((int(os.environ[name]) for name in RANKS if os.environ.get(name, "").isdigit()), 0)


def size() -> int:
    """The number of ranks that were started; 1 without a launcher."""
    told = (int(os.environ[name]) for name in SIZES if os.environ.get(name, "").isdigit())
    return max(rank() + 1, *told, 1)
