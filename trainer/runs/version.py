"""Which version of this project is at work: its number, and the commit where it runs from a clone."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

PROJECT = "two-tower-alexnet"
ROOT = Path(__file__).parents[2]


@functools.cache
def described() -> str:
    """For example `0.1.0, commit 3ccf0cc81f2a`. Read once: a run goes on with the code that it began with."""
    try:
        number = importlib.metadata.version(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        number = "not installed"
    found = commit(ROOT / ".git")
    return f"{number}, commit {found[:12]}" if found else number


def commit(git: Path) -> str | None:
    """The commit that a clone stands at, read from its files: no process is started inside MPI."""
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
    except OSError:  # not a clone
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
