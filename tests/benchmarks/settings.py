"""What `make bench` can be asked: one flag a field. A new stage is one word here and one file in stages/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

Stage = Literal["preprocess", "loader", "lrn", "update", "step", "reduce", "scaling", "gpu"]
WHEN_ASKED = ("scaling", "gpu")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Speed of each stage, beside what a user would pick instead and beside what the machine allows.

    Ours, peer and limit take turns, and the medians are compared: ours / peer above 1 is faster than the
    peer, ours / limit at 1 leaves nothing to gain. Figures are comparable within one run only, on a machine
    that does nothing else meanwhile.

    Examples: python -m tests.benchmarks (all stages: some ten minutes on two cores);
    python -m tests.benchmarks lrn update --repeats 9;
    python -m tests.benchmarks preprocess loader --imagenet data/imagenet
    """

    stages: tyro.conf.Positional[tuple[Stage, ...]] = ()
    """Stages to measure, in this order. None: all but gpu, which needs one, and scaling, which takes long."""
    repeats: int = 5
    """Turns that each of ours, peer and limit gets."""
    seconds: float = 0.3
    """A turn repeats its work until so many seconds are over; whole processes (step, reduce) do not."""
    batch: int = 128
    """Pictures at a time in step and scaling; the paper's."""
    lrn_batch: int = 64
    """Pictures at a time in lrn."""
    loader_batch: int = 128
    """Pictures at a time in loader."""
    steps: int = 3
    """Steps in a turn of step and of reduce, after the first ones, which are not counted."""
    pictures: int = 512
    """JPEGs that preprocess and loader work on."""
    repeated: int = 8192
    """Pictures of preprocess's long runs, beside those of the short ones: these JPEGs again and again."""
    imagenet: Path | None = None
    """Where the JPEGs are drawn from: ImageNet's tars, class folders, a tar of these. None: drawn pictures,
    made in a temporary folder."""
    store: Path | None = None
    """The store that loader reads; a raw copy of its training pictures is made in the temporary folder. None:
    a small one, made of the JPEGs."""
    pillow: Path | None = None
    """A Python that has plain Pillow (not Pillow-SIMD), such as ../other/bin/python: preprocess's peer. None:
    an environment is made for it in the temporary folder."""
    gpu_batches: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    """Pictures at a time in gpu."""
    json: Path = Path("runs/bench.json")
    """File that receives the figures, and beside it their picture; written anew by each run, after each
    stage."""

    def __post_init__(self) -> None:
        for name in ("repeats", "batch", "lrn_batch", "loader_batch", "steps", "pictures", "repeated"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}")
