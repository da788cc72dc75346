"""Weights of a single-device network into towers, as a run that can be evaluated and trained further.

python -m trainer.import_weights alexnet.safetensors --run runs/imported
python -m trainer.import_weights caffe.npz --run runs/caffe --bgr --lrn-k 1 --lrn-alpha 2e-5

The file names the layers conv1 to fc8 with `.weight` and `.bias`, in Caffe's shapes, which are torch's:
conv1 [96, 3, 11, 11], conv2 [256, 48, 5, 5], ... fc8 [1000, 4096]; .safetensors or .npz, nothing pickled.
Halves become towers. A conv2 that reads all 96 channels makes the dense network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import tyro
from torch import Tensor

from trainer import runs
from trainer.cli import parse
from trainer.config import Augment, Config, Network, from_dict
from trainer.data import open_data
from trainer.errors import UserError
from trainer.model import LAYERS, TOWERS, Tower
from trainer.optim import Schedule, flatten
from trainer.recipes import PAPER, settle
from trainer.saving import Writer
from trainer.single import Weights, split
from trainer.topology import all_or_none, arrange
from trainer.trained import EXPORTED, MEAN
from trainer.training_set import TrainingSet


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
    network: Network = field(default_factory=Network)
    augment: Augment = field(default_factory=Augment)


def read(path: Path) -> tuple[Weights, dict[str, Any] | None]:
    """The parameters, float32, and what an exported file says of itself. Raises UserError."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    about = None
    try:
        if path.suffix == EXPORTED:
            with safetensors.safe_open(path, "pt") as file:
                said = (file.metadata() or {}).get("about")
                about = json.loads(said) if said else None
                found = {name: file.get_tensor(name).float() for name in file.keys() if name != MEAN}  # noqa: SIM118
        else:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is neither a safetensors file nor an .npz of plain arrays: {error}"
        ) from None
    found = {name: _without_ones(name, tensor) for name, tensor in found.items()}
    expected = {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
    if set(found) != expected:
        missing, extra = sorted(expected - set(found)), sorted(set(found) - expected)
        raise UserError(
            f"{path} must hold {' '.join(sorted(expected))}; missing: {missing}, unknown: {extra}."
        )
    return found, about


def _without_ones(name: str, tensor: Tensor) -> Tensor:
    """Old Caffe files write a bias as 1 x 1 x 1 x N and a connected layer as 1 x 1 x N x M."""
    if name.endswith(".bias"):
        return tensor.flatten()
    return tensor.reshape(tensor.shape[-2:]) if name.startswith("fc") else tensor


def shaped(network: Network, weights: Weights) -> Network:
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
                raise UserError(
                    f"{key} has the shape {tuple(part[key].shape)} in a tower where the network has "
                    f"{tuple(parameter.shape)}: does the store have the same {classes} classes?"
                )
            parameter.data.copy_(part[key])
        towers.append(tower)
    return towers


def reverse_channels(weight_FCHW: Tensor) -> Tensor:
    """conv1 for red, green, blue from one for blue, green, red."""
    return weight_FCHW.flip(1)


def main(argv: Sequence[str] | None = None) -> None:
    with all_or_none():
        a = tyro_arguments(argv)
        if (a.run / runs.CONFIG).exists():
            raise UserError(f"{a.run} is a run already; name another --run.")
        weights, about = read(a.file)
        if a.bgr:
            weights["conv1.weight"] = reverse_channels(weights["conv1.weight"])
        if about:
            config = from_dict(about["config"])
        else:
            config = dataclasses.replace(PAPER, network=shaped(a.network, weights), augment=a.augment)
        store = open_data(a.store)
        config, _ = settle(runs.with_session(config, store=a.store, run=None), len(store.train))
        towers = build(config, weights, len(store.classes))
        topology = arrange("cpu", towers=config.network.towers)
        if topology.world.size > 1:
            raise UserError("Weights are imported by one process: leave out mpirun.")
        assert config.optim.batch_size is not None
        schedule = Schedule(config.optim, len(store.train) / config.optim.batch_size)
        state = {"step": 0, "epoch": 0.0, "schedule": schedule.state(), "seed": config.session.seed}
        state |= {"world": 1, "imported": a.file.name}
        runs.write_config(a.run, config, store.fingerprint)
        writer = Writer(a.run, topology, config.session.keep, TrainingSet.of(store))
        writer.save(towers, [flatten(tower) for tower in towers], state)
        writer.finish()
        print(f"{a.run}: a run of {a.file.name}; its errors: python -m trainer.evaluate --run {a.run}")


def tyro_arguments(argv: Sequence[str] | None) -> Arguments:
    """The command line; `file` and `run` must be given."""
    required: Any = tyro.MISSING
    default = Arguments(file=required, run=required)
    return parse(Arguments, "python -m trainer.import_weights", default, argv)


if __name__ == "__main__":
    main()
