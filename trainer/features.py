"""Write the outputs of layers for images, in files and in folders. Needs no MPI.

python -m trainer.features photographs/ --layers conv5 fc7 --to features.npz
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from preprocess.shared.ranges import Range
from trainer.cli import one_sentence, parse, quick_imports
from trainer.config import Ranged
from trainer.evaluation import layers


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Outputs of layers for images, a row for each, with the names of their files.

    Example: python -m trainer.features photographs/ --layers conv5 fc7 --to features.zarr
    """

    pictures: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC), and folders, searched with their subfolders."""
    layers: tuple[str, ...] = ("fc7",)
    """Names of layers; --help lists them with their shapes."""
    to: Path = Path("features.npz")
    """File to write: .npz, .safetensors, or .zarr, a zarr group. The largest sets need .zarr."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers in the file."""
    ten_crop: bool = False
    """Average the outputs of ten crops per image: corners and centre, and the same flipped."""
    model: Path | None = None
    """A run's folder, a checkpoint's, or an exported .safetensors file. None: the latest run in runs/."""
    checkpoint: Literal["best", "latest"] = "best"
    """Of a run. best: by validation error. latest: the newest."""
    batch_size: Annotated[int, Range("[1, 65536]")] = 64
    """Images that are computed at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


SHAPES = "Layers, with their shapes in the paper's network; conv1.relu and relu1 mean conv1, and so on:"
# tyro keeps the line breaks before lines that begin with a space.
Arguments.__doc__ = f"{inspect.getdoc(Arguments)}\n\n{SHAPES}\n{layers.table()}"


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        arguments = parse(Arguments, "python -m trainer.features", Arguments(), argv, ranks=False)
        with quick_imports():
            from trainer.commands import features

        features.run(arguments)


if __name__ == "__main__":
    main()
