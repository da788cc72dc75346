"""Repeat experiments of the paper.

python -m trainer.experiments relu-vs-tanh  Figure 1: epochs to 25 % training error on CIFAR-10
python -m trainer.experiments ablations     the error without each part: LRN, the second tower, dropout, ...
python -m trainer.experiments repeat        one training with several seeds: errors, filters and their spread
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro

from preprocess.shared.program import as_typed, words
from trainer.cli import one_sentence, quick_imports
from trainer.experiments.arguments import Ablations, ReluVsTanh, Repeat


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        arguments = tyro.cli(
            Annotated[ReluVsTanh, tyro.conf.subcommand("relu-vs-tanh")]
            | Annotated[Ablations, tyro.conf.subcommand("ablations")]
            | Annotated[Repeat, tyro.conf.subcommand("repeat")],
            prog=as_typed("python -m trainer.experiments"),
            description="Repeat experiments of the paper. A stopped command continues where it was.",
            args=words(argv),
        )
        if isinstance(arguments, ReluVsTanh):
            with quick_imports():
                from trainer.experiments import relu_tanh

            relu_tanh.run(arguments)
        elif isinstance(arguments, Ablations):
            with quick_imports():
                from trainer.experiments import ablations

            ablations.run(arguments)
        else:
            with quick_imports():
                from trainer.experiments import repeat

            repeat.run(arguments)


if __name__ == "__main__":
    main()
