"""Import the weights of another program's network as a run, which can be evaluated and trained further.

python -m trainer.import_weights bvlc_alexnet.caffemodel --mean imagenet_mean.binaryproto --run runs/caffe
python -m trainer.import_weights bvlcalexnet-12.onnx --mean 103.939 116.779 123.68 --run runs/zoo
python -m trainer.import_weights caffe.npz --like bvlc_alexnet --mean 104 117 123 --run runs/caffe-npz
python -m trainer.import_weights alexnet.safetensors --run runs/imported

A .caffemodel or .onnx has its network's layers: what differs from the paper becomes settings of the run,
and each difference is printed. A .safetensors or .npz holds the weights alone, `conv1.weight` to `fc8.bias`
in Caffe's shapes, which are torch's; `--like` names their network, or flags give the settings. An export of
this project has its own settings, classes and mean image. The halves of each layer become the towers. A
conv2 that reads all channels makes the dense network.

A pickle can run any code and is never read; the error message has the command that converts it.
docs/weights.md says where known weights are, and what stays different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from trainer.cli import parse, quick_imports, refused_by_all
from trainer.config import AugmentConfig, NetworkConfig


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Make a run of the weights of another program's network.

    Example: python -m trainer.import_weights bvlc_alexnet.caffemodel --mean mean.binaryproto --run runs/caffe
    """

    file: tyro.conf.Positional[Path]
    """The weights: .caffemodel, .onnx, .safetensors or .npz."""
    run: Path
    """Folder of the run to make; it must not be a run yet."""
    mean: tuple[str, ...] = ()
    """Mean image that is subtracted: Caffe's .binaryproto, an .npy, or a number for each channel in the order
    in which conv1 reads them. None: that of the file or of the store."""
    store: Path | None = None
    """A store that has the network's classes; its mean image is subtracted where no other is given."""
    classes: Path | None = None
    """Text file of the classes in the order of the outputs, one a line. None: those of the store; of 1,000
    outputs without a store, those of ILSVRC-2012."""
    like: Literal["bvlc_alexnet", "bvlc_reference_caffenet"] | None = None
    """The network that the weights of a .safetensors or .npz are of: its settings."""
    channels: Literal["auto", "rgb", "bgr"] = "auto"
    """Order in which conv1 reads the channels. auto: blue, green, red in a .caffemodel, in an .onnx and with
    --like; red, green, blue in others."""
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
