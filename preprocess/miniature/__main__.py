"""The command: python -m preprocess.miniature [data/imagenet] [--train N] [--val N] [--seed S]."""

import sys

import tyro

from preprocess.miniature.imagenet import make

try:
    tyro.cli(make, prog="python -m preprocess.miniature")
except (ValueError, FileExistsError) as error:
    sys.exit(f"error: {error}")
