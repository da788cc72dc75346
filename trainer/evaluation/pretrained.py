"""Load a trained network into one process: from a run, from a checkpoint or from an exported file.

    from trainer import load

    network = load("runs/auto-001")
    p_BK = network.probabilities(images_BSS3, ten_crop=True)

Neither MPI nor the store is needed: mean image and classes come with the checkpoint or the exported file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from trainer.config import Config, from_dict
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.model.grouped import Weights, split
from trainer.model.network import TOWERS, TwoTowerAlexNet
from trainer.runs import checkpoint as checkpoints
from trainer.runs import run_folder
from trainer.runs.training_set import MEAN, TrainingSet

EXPORTED = ".safetensors"


def load(
    path: str | Path | None = None,
    checkpoint: Literal["best", "latest"] = "best",
    device: str = "auto",
) -> PretrainedNetwork:
    """Load a trained network.

    Args:
        path: a run's folder, a checkpoint's folder, or a .safetensors file that `trainer.export` wrote.
            None: the latest run in runs/.
        checkpoint: of a run. best: by validation error. latest: the newest.
        device: cpu, cuda, or auto, which is a GPU where there is one.

    Raises UserError when nothing there can be loaded; the message has the reason.

    Example:
        from trainer import load

        network = load("runs/auto-001", checkpoint="latest")
        features = network.features(images_BSS3, ("conv5", "fc7"))
    """
    path = run_folder.latest() if path is None else Path(path)
    found = _of_exported(path) if path.suffix == EXPORTED else _of_run(path, checkpoint)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    augmentation.require_size(found.image_size, found.source, "train it anew on images of 256 pixels")
    found.network.eval().requires_grad_(False).to(device)
    return found


def _of_run(path: Path, which: str) -> PretrainedNetwork:
    """The network of a run's folder, or of one checkpoint's."""
    is_checkpoint = checkpoints.OWN.fullmatch(path.name) is not None
    run = checkpoints.run_of(path) if is_checkpoint else path
    config = run_folder.read_config(run)
    found, remarks = checkpoints.find(run, str(path) if is_checkpoint else which)
    for remark in remarks:
        print(remark, file=sys.stderr)
    data = TrainingSet.read(found.path) or TrainingSet.of(run_folder.store_of(run, config.run.store))
    weights = [
        _parameters(found.path / f"tower_{name}.safetensors") for name in TOWERS[: config.network.towers]
    ]
    return PretrainedNetwork(
        config=config,
        source=found.path,
        run=run,
        state=found.state,
        classes=data.classes,
        class_names=data.class_names,
        mean_SS3=data.mean_SS3,
        fingerprint=data.fingerprint,
        network=_network(config, len(data.classes), weights, found.path),
    )


def _of_exported(path: Path) -> PretrainedNetwork:
    """The network of a file that `interchange/write.py` wrote."""
    if not path.is_file():
        raise UserError(f"There is no file {path}; write one with: python -m trainer.export RUN")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        mean = tensors.pop(MEAN).numpy()
        config, classes, names = from_dict(about["config"]), about["classes"], about["class_names"]
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} was not written by python -m trainer.export, or is damaged.") from None
    return PretrainedNetwork(
        config=config,
        source=path,
        run=None,
        state=about["state"],
        classes=tuple(classes),
        class_names=tuple(names) if names else None,
        mean_SS3=mean,
        fingerprint=about.get("fingerprint"),
        network=_network(config, len(classes), split(tensors, config.network.towers), path),
    )


def _parameters(path: Path) -> dict[str, Tensor]:
    """One tower's parameters, without the momenta."""
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if not name.startswith("momentum.")}  # noqa: SIM118


def _network(config: Config, classes: int, weights: list[Weights], source: Path) -> TwoTowerAlexNet:
    """The towers with these weights. Raises UserError for a weight of another shape, name or dtype."""
    found = {str(w.dtype).removeprefix("torch.") for tensors in weights for w in tensors.values()}
    if found - {"float32"}:
        raise UserError(
            f"{source} has weights of {', '.join(sorted(found))}, and this program's are float32."
        )
    with torch.device("meta"):
        network = TwoTowerAlexNet(config.network, classes)
    try:
        for tower, tensors in zip(network.towers, weights, strict=True):
            tower.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(
            f"{source} does not fit this network of {classes} classes; is it another store's? {reason}"
        ) from None
    return network
