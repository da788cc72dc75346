"""Repeat experiments of the paper.

python -m trainer.experiments relu-vs-tanh  Figure 1: epochs to 25 % training error on CIFAR-10
python -m trainer.experiments ablations     error without LRN, overlap, dropout, PCA colour, the second tower
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro

from preprocess.shared.program import as_typed, words
from trainer.cli import one_sentence, quick_imports
from trainer.experiments.arguments import Ablations, ReluVsTanh


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        arguments = tyro.cli(
            Annotated[ReluVsTanh, tyro.conf.subcommand("relu-vs-tanh")]
            | Annotated[Ablations, tyro.conf.subcommand("ablations")],
            prog=as_typed("python -m trainer.experiments"),
            description="Repeat experiments of the paper. A stopped command continues where it was.",
            args=words(argv),
        )
        if isinstance(arguments, ReluVsTanh):
            with quick_imports():
                from trainer.experiments import relu_tanh

            relu_tanh.run(arguments)
        else:
            with quick_imports():
                from trainer.experiments import ablations

            ablations.run(arguments)


if __name__ == "__main__":
    main()
