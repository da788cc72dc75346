"""Predict the classes of images, in files and in folders. Needs no MPI.

python -m trainer.predict cat.jpg holiday/                         the latest run's best checkpoint
python -m trainer.predict cat.jpg --model alexnet.safetensors      an exported file
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from preprocess.shared.ranges import Count
from trainer.cli import one_sentence, parse, quick_imports
from trainer.config import Ranged


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """The most probable classes of images.

    Example: python -m trainer.predict cat.jpg holiday/ --ten-crop --model runs/paper-001
    """

    pictures: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC), and folders, searched with their subfolders."""
    model: Path | None = None
    """A run's folder, a checkpoint's, or an exported .safetensors file. None: the latest run in runs/."""
    ten_crop: bool = False
    """Average the softmax outputs of ten crops per image: corners and centre, and the same flipped."""
    top: Count = 5
    """Number of classes for each image."""
    format: Literal["table", "json"] = "table"
    """Format of the standard output."""
    annotate: Path | None = None
    """Folder for a PNG of each image with its probabilities as bars. None: none are written."""
    checkpoint: Literal["best", "latest"] = "best"
    """Of a run. best: by validation error. latest: the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        arguments = parse(Arguments, "python -m trainer.predict", Arguments(), argv, ranks=False)
        with quick_imports():
            from trainer.commands import predict

        predict.run(arguments)


if __name__ == "__main__":
    main()
