"""The loader's peer: torch's DataLoader on the original JPEGs, as users write it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from preprocess.errors import UserError
from preprocess.plan import load_plan, load_table

WORKERS = 2
BATCHES = 2 * WORKERS  # in one turn: two for each worker
MEAN, STD = 118.0, 60.0  # of a pixel, 0..255


class Originals(Dataset[tuple[Tensor, int]]):
    """JPEGs read in place: shorter side resized to 256, random crop and flip, normalised float32."""

    def __init__(self, files: list[tuple[Path, int, int, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, offset, length, label = self.files[index]
        with file.open("rb") as opened:
            opened.seek(offset)
            data = opened.read(length)
        image: Image.Image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = 256 / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (int(torch.randint(side - 224 + 1, ())) for side in (width, height))
        image = image.crop((left, top, left + 224, top + 224))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        return (pixels - MEAN) / STD, label


def originals(store: Path) -> Originals | None:
    """Find the training images that a store was made of; None if they are no longer there."""
    try:
        plan = load_plan(store)
        table = load_table(store, "train")
    except (UserError, FileNotFoundError):
        return None
    files = [
        (
            Path(plan.source, os.fsdecode(row["name"]) if row["file"] < 0 else plan.archives[row["file"]]),
            *(int(row["offset"]), int(row["length"]), int(row["label"])),
        )
        for row in table
    ]
    return Originals(files) if files[0][0].is_file() else None


def one_turn(dataset: Originals, batch: int) -> Callable[[], None]:
    """Make a function that loads BATCHES batches, drawn at random. The workers stay for the next call."""
    loader = DataLoader(
        dataset,
        batch,
        sampler=RandomSampler(dataset, num_samples=BATCHES * batch),
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a forked process would inherit locks that other threads hold
    )

    def turn() -> None:
        for _ in loader:
            pass

    return turn
