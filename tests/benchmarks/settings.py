"""The flags of `make bench`, one for each field. A new stage is one word here and one file in stages/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

Stage = Literal[
    "preprocess",
    "loader",
    "lrn",
    "update",
    "step",
    "reduce",
    "start",
    "scaling",
    "gpu",
    "layouts",
    "index",
    "race",
]
WHEN_ASKED = ("scaling", "gpu", "layouts", "index", "race")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Speed of each stage, compared with a peer, the usual alternative, and with the machine's limit.

    Ours, peer and limit take turns, and their medians are compared. ours / peer above 1 is faster than the
    peer. ours / limit at 1 leaves nothing to gain. Compare figures within one run only, on a machine without
    other work.

    Examples: python -m tests.benchmarks (all stages: about ten minutes on two cores);
    python -m tests.benchmarks lrn update --repeats 9;
    python -m tests.benchmarks preprocess loader --imagenet data/imagenet;
    python -m tests.benchmarks race --imagenet imagenette2-320
    """

    stages: tyro.conf.Positional[tuple[Stage, ...]] = ()
    """Stages to measure, in this order. None: all but gpu, which needs one, and scaling,
    layouts, index and race, which take long."""
    repeats: int = 5
    """Turns of each of ours, peer and limit."""
    seconds: float = 0.3
    """Shortest turn, in seconds: a turn repeats its work. Whole processes (step, reduce) do not."""
    batch: int = 128
    """Batch size of step and scaling; the paper's."""
    lrn_batch: int = 64
    """Batch size of lrn."""
    loader_batch: int = 128
    """Batch size of loader."""
    steps: int = 3
    """Steps in a turn of step and of reduce, after warm-up steps that are not counted."""
    pictures: int = 512
    """Number of JPEGs for preprocess and loader."""
    repeated: int = 8192
    """Images that the long runs of preprocess have more than the short ones: the same JPEGs repeated."""
    members: int = 1_300_000
    """Images in the lists of index."""
    imagenet: Path | None = None
    """Source of the JPEGs: ImageNet's tars, class folders, or a tar of these. None: synthetic images, made in
    a temporary folder."""
    store: Path | None = None
    """Store for loader; a raw copy of its training images is made in the temporary folder. None: a small
    store, made of the JPEGs."""
    pillow: Path | None = None
    """A Python with plain Pillow (not Pillow-SIMD), such as ../other/bin/python, for preprocess's peer. None:
    an environment is made in the temporary folder."""
    gpu_batches: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    """Batch sizes of gpu."""
    race_errors: tuple[float, ...] = (40, 30, 25)
    """Top-1 validation errors of race, in percent."""
    race_turn: float = 20
    """Seconds of a turn of race."""
    race_minutes: float = 90
    """Longest time of either runner of race, in minutes."""
    json: Path = Path("runs/bench.json")
    """File for the figures; a plot is drawn next to it. Each run overwrites it, after each stage."""

    def __post_init__(self) -> None:
        for name in (
            "repeats",
            "batch",
            "lrn_batch",
            "loader_batch",
            "steps",
            "pictures",
            "repeated",
            "members",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
        if not self.race_errors or min(self.race_errors) <= 0:
            raise ValueError("--race-errors must be positive")
        for name in ("race_turn", "race_minutes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
