"""Repeat experiments of the paper.

python -m trainer.experiments relu-vs-tanh  Figure 1: epochs to 25 % training error on CIFAR-10
python -m trainer.experiments ablations     error without LRN, overlap, dropout, PCA colour, the second tower
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from trainer.cli import one_sentence
from trainer.experiments import ablations, relu_tanh


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        arguments = tyro.cli(
            Annotated[relu_tanh.Arguments, tyro.conf.subcommand("relu-vs-tanh")]
            | Annotated[ablations.Arguments, tyro.conf.subcommand("ablations")],
            prog="python -m trainer.experiments",
            description="Repeat experiments of the paper. A stopped command continues where it was.",
            args=list(sys.argv[1:] if argv is None else argv),
        )
        if isinstance(arguments, relu_tanh.Arguments):
            relu_tanh.run(arguments)
        else:
            ablations.run(arguments)


if __name__ == "__main__":
    main()
