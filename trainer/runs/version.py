"""The version of this project: its number, and the commit of a clone."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

PROJECT = "two-tower-alexnet"
ROOT = Path(__file__).parents[2]


@functools.cache
def described() -> str:
    """For example `0.1.0, commit 3ccf0cc81f2a`. Read once: a process keeps the code that it started with."""
    try:
        number = importlib.metadata.version(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        number = "not installed"
    found = commit(ROOT / ".git")
    return f"{number}, commit {found[:12]}" if found else number


def commit(git: Path) -> str | None:
    """The commit of a clone, read from its files: starting git inside MPI is not safe."""
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
