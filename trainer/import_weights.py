"""Import the weights of a single-device network as a run, which can be evaluated and trained further.

python -m trainer.import_weights alexnet.safetensors --run runs/imported
python -m trainer.import_weights caffe.npz --run runs/caffe --bgr --lrn-k 1 --lrn-alpha 2e-5

The file, .safetensors or .npz, names the layers conv1 to fc8 with `.weight` and `.bias`, in Caffe's shapes,
which are torch's: conv1 [96, 3, 11, 11], conv2 [256, 48, 5, 5], ... fc8 [1000, 4096]. The halves of each
layer become the towers. A conv2 that reads all 96 channels makes the dense network. A pickle can run any code
and is never read; the error message has the command that converts it.

Dropout: the paper multiplies the outputs of fc6 and fc7 by 1 - p in evaluation. Caffe, torch and most others
divide by 1 - p in training and change nothing in evaluation ("inverted dropout"); so does the run, unless the
file is an export of this project, which has its own settings, or `--no-inverted-dropout` is given.

Caffe's bvlc_alexnet can be imported except for three details:

* Caffe crops 227 pixels, this project 224 with 3 zeros right and below: the last row and column of conv1's
  outputs have zeros for the last 3 pixels, and the central crop begins 2 pixels further right and down.
* Caffe normalises (LRN) across all channels of conv1 and conv2, this project within each tower, as the paper
  does: the 2 channels on each side of the towers' border have fewer neighbours in their sum.
* Caffe warps images to 256x256 and subtracts its own mean image; here those are the store's.

Caffe divides alpha by n = 5: its 1e-4 is --lrn-alpha 2e-5; its k is 1. bvlc_reference_caffenet has the same
shapes and another order (pooling, then LRN), which no setting here has: it cannot be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from trainer.cli import parse, quick_imports, refused_by_all
from trainer.config import AugmentConfig, NetworkConfig


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Make a run of the weights of a single-device network.

    Example: python -m trainer.import_weights alexnet.safetensors --run runs/imported
    """

    file: tyro.conf.Positional[Path]
    """The weights, .safetensors or .npz."""
    run: Path
    """Folder of the run to make; it must not be a run yet."""
    store: Path = Path("data/imagenet256.zarr")
    """The store that has the network's classes; its mean image is subtracted."""
    bgr: bool = False
    """conv1 reads blue, green, red, as Caffe's models do."""
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(inverted_dropout=True))
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def main(argv: Sequence[str] | None = None) -> None:
    with refused_by_all():
        arguments = parse_arguments(argv)
    with quick_imports():
        from trainer.commands import import_weights

    import_weights.run(arguments)


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """The command line; `file` and `run` must be given."""
    required: Any = tyro.MISSING
    default = Arguments(file=required, run=required)
    return parse(Arguments, "python -m trainer.import_weights", default, argv)


if __name__ == "__main__":
    main()
