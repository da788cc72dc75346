"""Top-1 and top-5 error on the validation set, exact: each image once, for any number of ranks.

python -m trainer.evaluate                             the latest run's best checkpoint, centre crop
python -m trainer.evaluate --ten-crop                  ten views an image, their softmax outputs averaged
python -m trainer.evaluate --run A B C --ensemble      three networks' softmax outputs averaged too
python -m trainer.evaluate --store OTHER               another set of images, with the run's own mean image
python -m trainer.evaluate --per-class                 the classes with the highest errors
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from preprocess.shared.ranges import Range
from trainer.cli import parse, quick_imports, refused_by_all
from trainer.config import Ranged


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Errors of trained networks on the validation set.

    Example: mpirun -n 2 python -m trainer.evaluate --ten-crop --run runs/paper-001
    """

    ten_crop: bool = False
    """Average the softmax outputs of ten crops: the corners and the centre, and the same flipped."""
    ensemble: bool = False
    """Average the softmax outputs of all the networks that --run and --checkpoint name (paper, section 6)."""
    per_class: bool = False
    """Print the classes with the highest errors; --json gets all of them, and the confusion matrix."""
    held_classes: bool = False
    """A guess is one of the classes that have images, not of all that the network knows. So ImageNet-A's and
    ImageNet-R's errors are published."""
    run: tuple[Path, ...] = ()
    """Folders of runs. None: the latest in runs/."""
    checkpoint: tuple[str, ...] = ("best",)
    """best: by validation error. latest: the newest. PATH: this one. Several: each of them, of every run."""
    store: Path | None = None
    """Another store than the one the run was trained on; its classes are matched by name."""
    json: Path | None = None
    """Write the figures to this file too."""
    batch_size: Annotated[int | None, Range("[1, 65536]")] = None
    """Images that each pair of ranks computes at a time. None: 64 on the CPU, 512 on a GPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: what the run was trained with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    with refused_by_all():
        arguments = parse(Arguments, "python -m trainer.evaluate", Arguments(), argv)
    with quick_imports():
        from trainer.commands import evaluate

    evaluate.run(arguments)


if __name__ == "__main__":
    main()
