"""The command: python -m preprocess.miniature [data/imagenet] [--train N] [--val N] [--seed S]."""

import sys

import tyro

from preprocess.miniature.imagenet import make
from preprocess.shared.disk import disk_failure
from preprocess.shared.interrupt import interruptible
from preprocess.shared.program import as_typed, words


def main() -> None:
    try:
        with interruptible("nothing was written"):
            tyro.cli(make, prog=as_typed("python -m preprocess.miniature"), args=words())
    except (ValueError, FileExistsError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if sentence := disk_failure(error, "it begins anew"):
            sys.exit(f"error: {sentence}")
        raise


if __name__ == "__main__":
    main()
