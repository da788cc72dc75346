"""The number of cores that a process may use; Python has a function of its own for it from 3.13 on."""

import os


def available_cores() -> int:
    """Cores that this process may run on; all of the machine's where the system has no affinity (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
