"""Run all checks of the doctor in parallel and print a line for each finding, with its remedy below.

The command line is argparse's: the library of the other commands, tyro, may be broken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from preprocess.shared.program import as_typed, words
from preprocess.shared.ranges import argument
from trainer.doctor import kernels, launcher, machine, software
from trainer.doctor.finding import Finding

COLORS = {"ok": "32", "warn": "33", "fail": "31"}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(
        prog=as_typed("python -m trainer.doctor"),
        description="Check this machine before a long run.",
        epilog="Example: python -m trainer.doctor --ranks 8. Exit code 1 if anything fails; warnings do not.",
    )
    flags.add_argument(
        "--store",
        type=Path,
        default=Path("data/imagenet256.zarr"),
        help="the store to check (default: %(default)s)",
    )
    flags.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="folder that runs will be written to (default: %(default)s)",
    )
    flags.add_argument(
        "--ranks",
        type=argument(int, "[1, 1024]"),
        default=2,
        help="ranks to start on this host (default: %(default)s)",
    )
    flags.add_argument("--json", action="store_true", help="print the findings as JSON")
    return flags


def examine(store: Path, runs: Path, ranks: int) -> list[Finding]:
    """All findings, in the order of the report. An exception in a check is a finding too."""
    checks: list[Callable[[], Finding | list[Finding]]] = [
        software.python,
        software.packages,
        software.pillow,
        software.sources,
        software.ctrl_c,
        lambda: software.torch(ranks),
        lambda: launcher.mpi(ranks),
        machine.processor,
        kernels.kernels,
        lambda: machine.memory(ranks),
        machine.shared_memory,
        lambda: machine.disk(runs),
        machine.home,
        lambda: machine.store(store),
        machine.loopback,
    ]
    with ThreadPoolExecutor(len(checks)) as threads:
        parts = list(threads.map(_safely, checks))
    return [finding for part in parts for finding in part]


def _safely(check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    """The findings of one check, or one for its exception."""
    try:
        found = check()
    except Exception as error:  # the check did not foresee something about this machine
        return [Finding("warn", "a check", f"failed: {type(error).__name__}: {error}", "please report this")]
    return found if isinstance(found, list) else [found]


def report(findings: Sequence[Finding], color: bool) -> str:
    """The findings as text."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for f in findings:
        mark = f"{f.level:4}"
        mark = f"\033[{COLORS[f.level]}m{mark}\033[0m" if color else mark
        lines.append(f"{mark}  {f.subject:{width}}  {f.text}")
        if f.remedy:
            lines.append(f"      {'':{width}}  -> {f.remedy}")
    count = {level: sum(f.level == level for f in findings) for level in COLORS}
    result = "ready" if not count["fail"] else "not ready"
    lines.append(f"{result}: {count['fail']} failed, {count['warn']} warnings, {count['ok']} ok")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(words(argv))
    findings = examine(arguments.store, arguments.runs, arguments.ranks)
    if arguments.json:
        records = [
            {"level": f.level, "what": f.subject, "says": f.text, "remedy": f.remedy} for f in findings
        ]
        print(json.dumps(records, indent=1))
    else:
        print(report(findings, sys.stdout.isatty()))
    raise SystemExit(any(finding.level == "fail" for finding in findings))


if __name__ == "__main__":
    main()
