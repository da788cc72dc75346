"""Load a trained network into one process: from a run, from a checkpoint or from an exported file.

    from trainer import load

    network = load("runs/auto-001")
    p_BK = network.probabilities("cat.jpg", ten_crop=True)

Neither MPI nor the store is needed: mean image and classes come with the checkpoint or the exported file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import torch

from preprocess.shared import json_files
from trainer.config import Config, from_dict
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.model.grouped import Weights, merge, split
from trainer.model.network import TOWERS, TwoTowerAlexNet
from trainer.parallel.device import kernels_left_out
from trainer.runs import checkpoint as checkpoints
from trainer.runs import run_folder, tensors
from trainer.runs.formats import Exported
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
        features = network.features(["cat.jpg", "dog.jpg"], ("conv5", "fc7"))
    """
    path = run_folder.latest() if path is None else Path(path)
    found = _of_exported(path) if _is_exported(path) else _of_run(path, checkpoint)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    remedy = "train it anew on images of 256 pixels"
    augmentation.require_size(found.image_size, found.crop_size, found.source, remedy)
    found.network.eval().requires_grad_(False).to(device)
    for sentence in kernels_left_out(torch.device(device), torch.float32):
        print(sentence, file=sys.stderr)
    return found


def read_config(path: Path) -> Config:
    """The settings of a trained network alone. Raises UserError as `load` does."""
    return _read_exported(path, nothing=True)[2] if _is_exported(path) else run_folder.read_config(_run(path))


def _is_exported(path: Path) -> bool:
    """Whether a path names a file of `trainer.export`. Raises UserError for another file."""
    if path.suffix != EXPORTED and path.is_file():
        raise UserError(
            f"{path} is neither a run, nor a checkpoint, nor an {EXPORTED} file of python -m trainer.export. "
            "Make a run of another program's weights with python -m trainer.import_weights."
        )
    return path.suffix == EXPORTED


def _is_checkpoint(path: Path) -> bool:
    return checkpoints.OWN.fullmatch(path.name) is not None


def _run(path: Path) -> Path:
    """The folder of the run that a path names, or whose checkpoint it names."""
    return checkpoints.run_of(path) if _is_checkpoint(path) else path


def _of_run(path: Path, which: str) -> PretrainedNetwork:
    """The network of a run's folder, or of one checkpoint's."""
    run = _run(path)
    config = run_folder.read_config(run)
    found, remarks = checkpoints.find(run, str(path) if _is_checkpoint(path) else which)
    for remark in remarks:
        print(remark, file=sys.stderr)
    data = TrainingSet.read(found.path) or TrainingSet.of(run_folder.store_of(run, config.run.store))
    network = _empty(config, len(data.classes))
    weights = []
    for name, tower in zip(TOWERS, network.towers, strict=False):  # a network may have tower a alone
        weights.append(_parameters(found.path / f"tower_{name}.safetensors"))
        _require_fit(weights[-1], dict(tower.state_dict()), len(data.classes), found.path)
    return PretrainedNetwork(
        config=config,
        source=found.path,
        run=run,
        state=found.state,
        classes=data.classes,
        class_names=data.class_names,
        mean_SS3=data.mean_SS3,
        fingerprint=data.fingerprint,
        upright=data.upright,
        network=_filled(network, weights),
    )


def _of_exported(path: Path) -> PretrainedNetwork:
    """The network of a file that `interchange/write.py` wrote."""
    found, about, config = _read_exported(path)
    try:
        data = TrainingSet.from_header(found.pop(MEAN, None), about, about.get("fingerprint") or "")
    except tensors.TensorsError as error:
        raise _not_exported(path, error) from None
    network = _empty(config, len(data.classes))
    _require_fit(
        found, merge([dict(tower.state_dict()) for tower in network.towers]), len(data.classes), path
    )
    return PretrainedNetwork(
        config=config,
        source=path,
        run=None,
        state={**about["state"]},
        classes=data.classes,
        class_names=data.class_names,
        mean_SS3=data.mean_SS3,
        fingerprint=data.fingerprint or None,
        upright=data.upright,
        network=_filled(network, split(found, config.network.towers)),
    )


def _read_exported(path: Path, nothing: bool = False) -> tuple[Weights, Exported, Config]:
    """Tensors (`nothing`: none of them), header and settings of an exported file. Raises UserError."""
    if not path.is_file():
        raise UserError(f"There is no file {path}; write one with: python -m trainer.export RUN")
    try:
        found, text = tensors.read(path, lambda name: not nothing)
        about = json_files.parse(text or "", Exported, "its header")
        return found, about, from_dict(about["config"])
    except (tensors.TensorsError, json_files.JsonError, UserError) as error:
        raise _not_exported(path, error) from None


def _not_exported(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} was not written by python -m trainer.export, or is damaged ({str(error).rstrip('.')}): "
        "write it anew with: python -m trainer.export RUN"
    )


def _parameters(path: Path) -> Weights:
    """One tower's parameters, without the momenta. Raises UserError."""
    try:
        return tensors.read(path, lambda name: not name.startswith("momentum."))[0]
    except tensors.TensorsError as error:
        raise UserError(f"{error}; use another checkpoint.") from None


def _empty(config: Config, classes: int) -> TwoTowerAlexNet:
    """The towers without memory."""
    with torch.device("meta"):
        return TwoTowerAlexNet(config.network, classes)


def _require_fit(found: Weights, expected: Weights, classes: int, source: Path) -> None:
    """Raise UserError for a weight of another shape or name."""
    shapes = [{name: list(w.shape) for name, w in weights.items()} for weights in (found, expected)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        here, needed = (shape.get(name, "none") for shape in shapes)
        if here != needed:
            raise UserError(
                f"{source} does not fit this network of {classes} classes; is it another store's? It holds "
                f"{name} of shape {here}, and the network has {needed}."
            )


def _filled(network: TwoTowerAlexNet, weights: list[Weights]) -> TwoTowerAlexNet:
    for tower, own in zip(network.towers, weights, strict=True):
        tower.load_state_dict(own, assign=True)
    return network
