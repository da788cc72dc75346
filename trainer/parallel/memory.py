"""The memory that a rank can have at most: work that needs more is refused before it begins."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from preprocess.shared.units import size
from trainer.errors import UserError
from trainer.parallel.topology import Topology

CGROUPS = Path("/sys/fs/cgroup")
GROUPS = Path("/proc/self/cgroup")


def host_memory() -> int:
    """Bytes of this host's memory, or of the control groups of this process where they allow less."""
    least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = GROUPS.read_text().splitlines() if GROUPS.exists() else []
    for _, kinds, name in (line.split(":", 2) for line in lines):
        if kinds in ("", "memory"):  # "": version 2
            top = CGROUPS / kinds
            own = top / name.lstrip("/")
            for folder in (own, *own.parents):
                for limit in ("memory.max", "memory.limit_in_bytes"):
                    with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                        least = min(least, int((folder / limit).read_text()))
                if folder == top:
                    break
    return least


def rank_memory(topology: Topology) -> int:
    """Bytes that this rank can have at most: its GPU's, or its share of its host's."""
    if topology.device.type == "cuda":
        return torch.cuda.get_device_properties(topology.device).total_memory
    return host_memory() // topology.hosts.count(topology.hosts[topology.rank])


def require_memory(topology: Topology, needed: int, work: str, remedy: str) -> None:
    """Raise UserError on all ranks if any of them can't have the memory that it needs at least.

    needed: bytes of this rank; work, remedy: for the sentence.
    """
    of_all = topology.world.allgather((needed, rank_memory(topology)))
    for rank, (needs, has) in enumerate(of_all):
        if needs > has:
            raise UserError(
                f"{work} needs at least {size(needs)} of memory on each rank, and rank {rank} on "
                f"{topology.hosts[rank]} can have {size(has)}: {remedy}."
            )
