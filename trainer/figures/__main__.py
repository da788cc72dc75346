"""Draw a run's figures: the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from preprocess.shared.ranges import Count
from trainer.cli import one_sentence, parse, quick_imports
from trainer.config import Ranged
from trainer.errors import UserError
from trainer.figures import NAMES, Name


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Draw a run's figures, as PNG and SVG, into its folder figures/.

    Example: python -m trainer.figures runs/paper-001 --only conv1-filters predictions
    Example: python -m trainer.figures runs/paper-001 runs/cuda-convnet-001 --together curves.png
    """

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs. None: the latest in runs/."""
    together: Path | None = None
    """Draw only the learning curves of all these runs, in one figure, into this file."""
    only: tuple[Name, ...] = ()
    """The figures to draw. None: all of them."""
    checkpoint: Literal["best", "latest"] = "best"
    """best: by validation error. latest: the newest."""
    store: Path | None = None
    """Another store than the one that the run was trained on."""
    pictures: Count | None = None
    """The largest number of images of a split. None: 2,000 on the CPU, 50,000 on a GPU."""
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
        for run in a.run or (run_folder.latest(),):
            written = draw(
                run,
                names=a.only or NAMES,
                checkpoint=a.checkpoint,
                store=a.store,
                device=a.device,
                images=a.pictures,
            )
            if not written:
                raise UserError(f"No figure of {run} could be drawn.")


if __name__ == "__main__":
    main()
