"""The command: python -m preprocess.miniature [data/imagenet] [--train N] [--val N] [--seed S]."""

import sys

import tyro

from preprocess.miniature.imagenet import make
from preprocess.shared.program import as_typed


def main() -> None:
    try:
        tyro.cli(make, prog=as_typed("python -m preprocess.miniature"))
    except (ValueError, FileExistsError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
