"""Which kernels this machine can use: the table of trainer.kernels, a finding for each operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.doctor.finding import ROOT, Finding, attempt, built
from trainer.doctor.software import SETUP

TABLE = """
import dataclasses, json, sys
sys.path.insert(0, {root!r})
from trainer.kernels.table import TABLE
from trainer.kernels import counter_rng
from preprocess.shared.cached_njit import cache_folder
print(json.dumps(cache_folder(counter_rng._fill)))
for operation, backends in TABLE.items():
    print(json.dumps([operation, [[b.name, dataclasses.asdict(b.needs)] for b in backends]]))
"""

BUILD = "install gcc and Python's headers, then: pip install -e ."


def kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[Finding]:
    """Each operation's backends in order of preference, and what the others need; where loops are cached."""
    tried = attempt(script=TABLE.format(root=str(ROOT)))
    if tried.failure or not tried.values:
        return [Finding("fail", "kernels", f"trainer.kernels does not import: {tried.failure}", SETUP)]
    cpu_flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    folder, *operations = tried.values
    return [
        cache(folder),
        *(judge(operation, backends, cpu_flags) for operation, backends in operations),
    ]


def cache(folder: str | None) -> Finding:
    """Where compiled loops are kept."""
    if folder:
        return Finding("ok", "compiled loops", f"are kept in {folder}")
    text = "there is no folder to keep them in: each start compiles them, for a minute"
    return Finding("warn", "compiled loops", text, "export NUMBA_CACHE_DIR=FOLDER, one that you can write to")


def judge(operation: str, backends: list[tuple[str, dict[str, Any]]], cpu_flags: list[str]) -> Finding:
    """From [name, what it needs] of each backend. A module in C that this processor could use, and that is
    not built, is a warning."""
    text = ", ".join(name for name, needs in backends if needs["available"])
    unbuilt = []
    for name, needs in backends:
        if not needs["available"]:
            text += f"; {name} needs {needs['words']}"
            if needs["cpu_flag"] in cpu_flags:
                unbuilt += [module for module in needs["modules"] if not built(module)]
    if unbuilt:
        files = ", ".join(f"{module.replace('.', '/')}.c" for module in unbuilt)
        return Finding("warn", f"kernel {operation}", f"{text}; not built: {files}: steps take longer", BUILD)
    return Finding("ok", f"kernel {operation}", text)
