"""Weights of a single-device network into towers, as a run that can be evaluated and trained further.

python -m trainer.import_weights alexnet.safetensors --run runs/imported
python -m trainer.import_weights caffe.npz --run runs/caffe --bgr --lrn-k 1 --lrn-alpha 2e-5

The file names the layers conv1 to fc8 with `.weight` and `.bias`, in Caffe's shapes, which are torch's:
conv1 [96, 3, 11, 11], conv2 [256, 48, 5, 5], ... fc8 [1000, 4096]; .safetensors or .npz. A pickle can run
any code and is never read; the error message has the command that converts it. Halves become towers. A conv2
that reads all 96 channels makes the dense network.

Dropout: this project follows the paper, and multiplies the outputs of fc6 and fc7 by 1 - p in evaluation.
Caffe, torch and most others divide by 1 - p in training and do nothing in evaluation ("inverted dropout").
So the weights that read these outputs, those of fc7 and fc8, are divided by 1 - p, unless the file is an
export of this project or `--no-inverted-dropout` is given. Training and evaluation then compute what they
did there.

Of Caffe's bvlc_alexnet everything maps but three details:

* Caffe crops 227 pixels, this project 224 with 3 zeros right and below: the last row and column of conv1's
  outputs see zeros for the last 3 pixels, and the central crop begins 2 pixels further right and down.
* Caffe normalises (LRN) across all channels of conv1 and conv2, this project within each tower, as the paper
  does: the 2 channels on each side of the towers' border have fewer neighbours in their sum.
* Caffe warps images to 256x256 and subtracts its own mean image; here those are the store's.

Caffe's alpha is divided by n = 5: its 1e-4 is --lrn-alpha 2e-5; its k is 1. bvlc_reference_caffenet has the
same shapes and another order (pooling, then LRN), which no setting here has: it cannot be imported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from trainer.cli import parse
from trainer.config import AugmentConfig, Config, NetworkConfig, from_dict, with_changes
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.pretrained import MEAN, open_trained
from trainer.interchange import foreign
from trainer.model.grouped import Weights, split
from trainer.model.network import LAYERS, TOWERS, Tower
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
    """The store whose classes the network tells apart; its mean image is subtracted."""
    bgr: bool = False
    """conv1 reads blue, green, red, as Caffe's models do."""
    inverted_dropout: bool = True
    """The weights were trained with outputs divided by 1 - dropout, as in Caffe and torch: those of fc7 and
    fc8 are divided by it. Off: with the paper's dropout. An export of this project is taken as it is."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def read(path: Path) -> tuple[Weights, dict[str, Any] | None]:
    """The parameters, float32, and what an exported file says of itself. Raises UserError."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    about = None
    try:
        kind = foreign.kind_of(path)
        if kind == "safetensors":
            with safetensors.safe_open(path, "pt") as file:
                about = _about(path, (file.metadata() or {}).get("about"))
                found = {name: file.get_tensor(name).float() for name in file.keys() if name != MEAN}  # noqa: SIM118
        elif kind == "npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(_numbers(arrays[name])) for name in arrays.files}
        else:
            raise UserError(foreign.sentence(path, kind))
    except (safetensors.SafetensorError, *foreign.DAMAGE) as error:
        raise UserError(
            f"{path} is neither a safetensors file nor an .npz of plain arrays, or it is damaged: {error}"
        ) from None
    if foreign.is_torchvisions(found):
        raise UserError(
            f"{path} holds torchvision's alexnet, which is another network and cannot be imported: it has 64 "
            "filters in conv1, no towers and no response normalisation. Import a network of the paper's "
            "shapes, such as Caffe's bvlc_alexnet."
        )
    expected = {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    if set(found) != expected:
        missing, unknown = _some(expected - set(found)), _some(set(found) - expected)
        raise UserError(
            f"{path} must hold conv1 to fc8, each with .weight and .bias, and nothing else; "
            f"missing: {missing}, unknown: {unknown}."
        )
    found = {name: _without_ones(name, tensor) for name, tensor in found.items()}
    _require_shapes(path, found)
    return found, about


def _about(path: Path, text: str | None) -> dict[str, Any] | None:
    """What an exported file says of itself; None of another program's file."""
    try:
        about: dict[str, Any] | None = json.loads(text or "null")
    except ValueError:
        return None
    if not isinstance(about, dict) or "config" not in about:
        return None
    try:
        from_dict(about["config"])
    except (ValueError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{path} was exported by another version, or is damaged: {error!s:.200} Export the network anew."
        ) from None
    return about


def _numbers(array: NDArray[Any] | bytes) -> NDArray[np.float32]:
    """What an .npz has under one name, as float32. Raises ValueError for what are no real numbers."""
    if isinstance(array, bytes):  # NumPy's way with a member that does not begin as an array does
        raise ValueError("a part of it is no array")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"an array is of {array.dtype}, not of real numbers")
    return array.astype(np.float32)


def _some(names: Iterable[str]) -> str:
    """A list for a sentence, of four names at most."""
    first, more = sorted(names)[:4], max(0, len(set(names)) - 4)
    return f"{first} and {more} more" if more else str(first)


def _require_shapes(path: Path, weights: Weights) -> None:
    """Raise UserError for weights that are not in Caffe's order, do not fit each other, or are no numbers."""
    reads = {"fc7": "fc6", "fc8": "fc7"}
    for layer in LAYERS:
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        order = "outputs, inputs" if layer.startswith("fc") else "filters, channels, height, width"
        right = weight.ndim == len(order.split(", ")) and len(weight) == len(bias) > 0
        if right and layer in reads:
            right = weight.shape[1] == len(weights[f"{reads[layer]}.weight"])
        if not right:
            raise UserError(
                f"{path}: {layer}.weight has the shape {list(weight.shape)} and {layer}.bias {len(bias)} "
                f"numbers; the weights must be [{order}], as Caffe and torch have them."
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise UserError(f"{path}: {layer} holds what is not a finite number.")


def _without_ones(name: str, tensor: Tensor) -> Tensor:
    """Old Caffe files write a bias as 1 x 1 x 1 x N and a connected layer as 1 x 1 x N x M."""
    if name.endswith(".bias"):
        return tensor.flatten()
    old = name.startswith("fc") and tensor.ndim == 4 and tensor.shape[:2] == (1, 1)
    return tensor.reshape(tensor.shape[-2:]) if old else tensor


def shaped(network: NetworkConfig, weights: Weights) -> NetworkConfig:
    """The settings with the widths that the weights have. Raises UserError when these cannot be halved."""
    counts = [len(weights[f"{layer}.weight"]) for layer in LAYERS[:7]]
    if any(count % 2 for count in counts):
        raise UserError(f"Two towers halve every layer; these have {counts} outputs.")
    c1, c2, c3, c4, c5, hidden, _ = (count // 2 for count in counts)
    dense = weights["conv2.weight"].shape[1] == 2 * c1
    return dataclasses.replace(network, towers=2, dense=dense, filters=(c1, c2, c3, c4, c5), hidden=hidden)


def build(config: Config, weights: Weights, classes: int) -> list[Tower]:
    """Towers with these weights. Raises UserError when a layer has another shape than they need."""
    towers = []
    names = TOWERS[: config.network.towers]
    for name, part in zip(names, split(weights, len(names)), strict=True):
        tower = Tower(config.network, classes, name)
        for key, parameter in tower.named_parameters():
            if part[key].shape != parameter.shape:
                what = (
                    f"does the store have the same {classes} classes?"
                    if key.startswith("fc8")
                    else ("this is not the paper's network.")
                )
                raise UserError(
                    f"{key} has the shape {tuple(part[key].shape)} in a tower where the network has "
                    f"{tuple(parameter.shape)}: {what}"
                )
            parameter.data.copy_(part[key])
        towers.append(tower)
    return towers


def reverse_channels(weight_FCHW: Tensor) -> Tensor:
    """conv1 for red, green, blue from one for blue, green, red."""
    return weight_FCHW.flip(1)


def for_papers_dropout(weights: Weights, dropout: float) -> Weights:
    """Weights that were trained with inverted dropout, for a network that scales in evaluation (4.2)."""
    read_dropped = ("fc7.weight", "fc8.weight")
    return {name: w / (1 - dropout) if name in read_dropped else w for name, w in weights.items()}


def main(argv: Sequence[str] | None = None) -> None:
    with abort_all_on_error():
        a = tyro_arguments(argv)
        if (a.run / run_folder.CONFIG).exists():
            raise UserError(f"{a.run} is a run already; name another --run.")
        store = open_data(a.store)
        weights, about = read(a.file)
        if a.bgr:
            weights["conv1.weight"] = reverse_channels(weights["conv1.weight"])
        trained_on = TrainingSet.of(store)
        if about:
            config = from_dict(about["config"])
            trained_on = open_trained(a.file, device="cpu").trained_on
            if trained_on.classes != store.classes:
                raise UserError(
                    f"The classes of {a.file} are not those of {a.store} in the same order: its outputs "
                    "would stand for others. Name the store that it was trained on with --store."
                )
        else:
            config = dataclasses.replace(PAPER, network=shaped(a.network, weights), augment=a.augment)
            if a.inverted_dropout and config.network.dropout:
                weights = for_papers_dropout(weights, config.network.dropout)
                print(
                    f"The weights of fc7 and fc8 are divided by {1 - config.network.dropout:g}: the outputs "
                    "that they read are multiplied by it in evaluation (--no-inverted-dropout leaves them)."
                )
        config, _ = settle(with_changes(config, store=a.store, folder=None), len(store.train))
        towers = build(config, weights, len(store.classes))
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


def tyro_arguments(argv: Sequence[str] | None) -> Arguments:
    """The command line; `file` and `run` must be given."""
    required: Any = tyro.MISSING
    default = Arguments(file=required, run=required)
    return parse(Arguments, "python -m trainer.import_weights", default, argv)


if __name__ == "__main__":
    main()
