"""Import the weights of a single-device network as a run, which can be evaluated and trained further.

python -m trainer.import_weights alexnet.safetensors --run runs/imported
python -m trainer.import_weights caffe.npz --run runs/caffe --bgr --lrn-k 1 --lrn-alpha 2e-5

The file, .safetensors or .npz, names the layers conv1 to fc8 with `.weight` and `.bias`, in Caffe's shapes,
which are torch's: conv1 [96, 3, 11, 11], conv2 [256, 48, 5, 5], ... fc8 [1000, 4096]. The halves of each
layer become the towers. A conv2 that reads all 96 channels makes the dense network. A pickle can run any code
and is never read; the error message has the command that converts it.

Dropout: this project follows the paper, and multiplies the outputs of fc6 and fc7 by 1 - p in evaluation.
Caffe, torch and most others divide by 1 - p in training and change nothing in evaluation ("inverted
dropout"). So the weights that read these outputs, those of fc7 and fc8, are divided by 1 - p, unless the file
is an export of this project or `--no-inverted-dropout` is given. The results are then those of the original.

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

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from preprocess.store import Store
from trainer.cli import parse
from trainer.config import AugmentConfig, Config, NetworkConfig, from_dict, with_changes
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.pretrained import load
from trainer.interchange import to_towers, weights_file
from trainer.model.grouped import Weights
from trainer.parallel.ending import abort_all_on_error
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER, settle
from trainer.runs import run_folder
from trainer.runs.checkpoint_writer import Writer
from trainer.runs.training_set import TrainingSet
from trainer.training.optimizer import flatten, named_tensors
from trainer.training.schedule import Schedule


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
    inverted_dropout: bool = True
    """The weights were trained with outputs divided by 1 - dropout, as in Caffe and torch: those of fc7 and
    fc8 are divided by it. Off: with the paper's dropout. An export of this project is taken as it is."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def read(a: Arguments, store: Store) -> tuple[Config, Weights, TrainingSet]:
    """The settings, the weights and the training set of the run. Raises UserError."""
    weights, about = weights_file.read(a.file)
    if a.bgr:
        weights["conv1.weight"] = to_towers.reverse_channels(weights["conv1.weight"])
    if about:
        trained_on = load(a.file, device="cpu").trained_on
        if trained_on.classes != store.classes:
            raise UserError(
                f"The classes of {a.file} are not those of {a.store} in the same order: its outputs "
                "would be assigned to other classes. Name the store that it was trained on with --store."
            )
        return from_dict(about["config"]), weights, trained_on
    network = to_towers.with_widths_of(a.network, weights)
    if a.inverted_dropout and network.dropout:
        weights = to_towers.from_inverted_dropout(weights, network.dropout)
        print(
            f"The weights of fc7 and fc8 are divided by {1 - network.dropout:g}: evaluation multiplies the "
            "outputs that they read by it (--no-inverted-dropout leaves the weights as they are)."
        )
    return dataclasses.replace(PAPER, network=network, augment=a.augment), weights, TrainingSet.of(store)


def main(argv: Sequence[str] | None = None) -> None:
    with abort_all_on_error():
        a = parse_arguments(argv)
        if (a.run / run_folder.CONFIG).exists():
            raise UserError(f"{a.run} is a run already; name another --run.")
        store = open_data(a.store)
        config, weights, trained_on = read(a, store)
        config, _ = settle(with_changes(config, store=a.store, folder=None), len(store.train))
        towers = to_towers.build_towers(config, weights, len(store.classes))
        topology = init_topology("cpu", towers=config.network.towers)
        if topology.world.size > 1:
            raise UserError("Weights are imported by one process: leave out mpirun.")
        assert config.optim.batch_size is not None
        schedule = Schedule(config.optim, len(store.train) / config.optim.batch_size)
        state = {"step": 0, "epoch": 0.0, "schedule": schedule.state(), "seed": config.run.seed}
        state |= {"world": 1, "imported": a.file.name}
        run_folder.write_config(a.run, config, store.fingerprint)
        writer = Writer(a.run, topology, config.checkpoint.keep, trained_on)
        writer.save({tower.name: named_tensors(flatten(tower)) for tower in towers}, state)
        writer.finish()
        print(f"{a.run}: a run of {a.file.name}; its errors: python -m trainer.evaluate --run {a.run}")


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """The command line; `file` and `run` must be given."""
    required: Any = tyro.MISSING
    default = Arguments(file=required, run=required)
    return parse(Arguments, "python -m trainer.import_weights", default, argv)


if __name__ == "__main__":
    main()
