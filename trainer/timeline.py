"""Record a timeline of a few steps: the computation and the communication of every rank.

    mpirun -n 4 python -m trainer.timeline                  two pairs; writes runs/timeline.json and .png

https://ui.perfetto.dev and chrome://tracing open the file. Each rank is a process with two rows: the main
thread, and the all-reduces that run at the same time in a thread of their own. The images are random numbers;
no store is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from preprocess.shared.ranges import Count, Range
from trainer.cli import parse, quick_imports, refused_by_all
from trainer.config import NetworkConfig, Ranged
from trainer.recipes import AUTO


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """A timeline of a few steps of these ranks, for Perfetto and as a PNG."""

    path: Path = Path("runs/timeline.json")
    """File to write; the PNG is written next to it."""
    steps: Annotated[int, Range("[1, 10000]")] = 3
    """Steps to record, after two that are not recorded."""
    batch_size: Count = 64
    """Global batch size."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """As in trainer.run."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """As in trainer.run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """As in trainer.run."""
    network: NetworkConfig = field(default_factory=lambda: AUTO.network)


def main(argv: Sequence[str] | None = None) -> None:
    with refused_by_all():
        arguments = parse(Arguments, "python -m trainer.timeline", Arguments(), argv)
    with quick_imports():
        from trainer.commands import timeline

    timeline.run(arguments)


if __name__ == "__main__":
    main()
