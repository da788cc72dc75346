"""Draw the figures of a run or of an exported file: the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from preprocess.shared.ranges import Count, Range
from trainer.cli import one_sentence, parse, quick_imports
from trainer.config import Ranged
from trainer.errors import UserError
from trainer.figures import NAMES, Layer, Name


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Draw the figures of a run or of an exported file, as PNG and SVG, into a folder figures/.

    Example: python -m trainer.figures runs/paper-001 --only conv1-filters predictions
    Example: python -m trainer.figures runs/paper-001 --layer conv5 --units 3 17 40
    Example: python -m trainer.figures alexnet/alexnet.safetensors --store data/imagenet256.zarr
    Example: python -m trainer.figures runs/paper-001 runs/cuda-convnet-001 --together curves.png
    """

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs or of checkpoints, or files of trainer.export. None: the latest in runs/."""
    together: Path | None = None
    """Draw only the learning curves of all these runs, in one figure, into this file."""
    only: tuple[Name, ...] = ()
    """The figures to draw. None: all of them."""
    checkpoint: Literal["best", "latest"] = "best"
    """best: by validation error. latest: the newest."""
    store: Path | None = None
    """Another store than the run's own. An exported file has none, and figures of images need one."""
    pictures: Count | None = None
    """The largest number of images of a split. None: 2,000 on the CPU, 50,000 on a GPU."""
    layer: Layer | None = None
    """Draw the figure `strongest` of this layer's units. conv1 to fc7: after the activation function."""
    units: Annotated[tuple[int, ...], Range("[0, 1e6]")] = ()
    """The units of --layer, from 0: tower a's, then tower b's. None: the most selective ones."""
    to: Path | None = None
    """The folder. None: figures/ in the run's folder, a folder in that for a checkpoint, or figures/ next to
    the exported file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        a = parse(Arguments, "python -m trainer.figures", Arguments(), argv, ranks=False)
        with quick_imports():
            from trainer.figures.drawing import draw, draw_together
            from trainer.runs import run_folder

        if a.together:
            draw_together(a.run or (run_folder.latest(),), a.together)
            print(f"learning curves: {a.together}")
            return
        if a.units and not a.layer:
            raise UserError("--units are those of a layer: name it with --layer, as --layer conv5.")
        if a.to and len(a.run) > 1:
            raise UserError("--to is the folder of one run's figures: name one run.")
        for run in a.run or (run_folder.latest(),):
            written = draw(
                run,
                names=a.only or (("strongest",) if a.layer else NAMES),
                checkpoint=a.checkpoint,
                store=a.store,
                device=a.device,
                images=a.pictures,
                layer=a.layer,
                units=a.units,
                to=a.to,
            )
            if not written:
                raise UserError(f"No figure of {run} could be drawn.")


if __name__ == "__main__":
    main()
