"""All commands under one name: `alexnet train` is `python -m trainer.run`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("trainer.run", "train the two towers"),
    "evaluate": ("trainer.evaluate", "top-1 and top-5 error on the validation set"),
    "predict": ("trainer.predict", "the most probable classes of images"),
    "features": ("trainer.features", "outputs of layers for images, in a file"),
    "watch": ("trainer.watch", "a live page of a run, in the browser"),
    "figures": ("trainer.figures.__main__", "curves, filters, predictions and neighbours of a run"),
    "export": ("trainer.export", "safetensors, a module for torch alone, ONNX, a model card"),
    "import-weights": ("trainer.import_weights", "make a run of the weights of a single-device network"),
    "experiments": ("trainer.experiments.__main__", "Figure 1 of the paper on CIFAR-10; ablations"),
    "timeline": ("trainer.timeline", "record the computation and communication of a few steps"),
    "scaling": ("trainer.scaling", "estimate the time of a step on many GPUs"),
    "doctor": ("trainer.doctor.__main__", "what this machine lacks, and how to fix it"),
    "miniature": ("preprocess.miniature.__main__", "make a small synthetic ImageNet"),
}
"""Name -> module and one line of help."""


def main(argv: Sequence[str] | None = None) -> None:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="alexnet",
        usage="alexnet [-h] COMMAND ...",
        description="AlexNet as it was in 2012: two towers, trained over MPI.",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="COMMAND --help lists its flags")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    found = parser.parse_args(argv)
    sys.argv[:] = [f"alexnet {found.command}", *found.flags]
    importlib.import_module(COMMANDS[found.command][0]).main()


if __name__ == "__main__":
    main()
