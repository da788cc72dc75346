"""The processor: its name, its instructions, and the number of cores that a process may use."""

import os
import platform
import re
from pathlib import Path

INSTRUCTIONS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""The flags of /proc/cpuinfo that decide how fast a training is, the fastest first."""


def available_cores() -> int:
    """Cores that this process may run on; all of the machine's where the system has no affinity (macOS).

    Python has a function of its own for it from 3.13 on.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor next to a measured time: "AMD EPYC, 2 cores, AVX-512 with bfloat16"."""
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    named = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = " ".join(named[1].split()) if named else platform.processor() or platform.machine()
    flags = set(text.split())
    fastest = [words for flag, words in INSTRUCTIONS.items() if flag in flags][:1]
    return ", ".join([name, f"{available_cores()} cores", *fastest])
