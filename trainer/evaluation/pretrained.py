"""A trained network without MPI: what figures, predictions and exports look at.

    trained = open_trained(Path("runs/auto-001"))           # a run, a checkpoint's folder or an exported file
    p_BK = trained.probabilities(pictures_BSS3, ten_crop=True)

Both towers live in one process, in evaluation form: no dropout is drawn, arithmetic is float32. Mean image
and classes come with the checkpoint or the exported file; no store is needed.

B batch, S side of the stored picture (256), K classes, F hidden units of one tower.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Config, from_dict
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.model.grouped import split
from trainer.model.network import TOWERS, Tower, TwoTowerAlexNet
from trainer.runs import checkpoint, run_folder
from trainer.runs.training_set import TrainingSet

EXPORTED = ".safetensors"
MEAN = "mean_image"
"""An exported file's tensor that is no parameter: the mean image, float32 [S, S, 3]."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network and what it needs to look at a picture."""

    config: Config
    source: Path
    """The checkpoint's folder, or the exported file."""
    run: Path | None
    """The run's folder, where there is one."""
    state: dict[str, Any]
    """The checkpoint's state.json: step, epoch, best, versions."""
    classes: tuple[str, ...]
    """K names as the folders have them, such as n01440764."""
    class_names: tuple[str, ...] | None
    """The same in words, where the source of the pictures knew them."""
    mean_SS3: NDArray[np.float32] = field(repr=False)
    """The training set's mean image, 0..255."""
    fingerprint: str | None = None
    """Of the store that the network was trained on; None where an exported file does not say it."""
    network: TwoTowerAlexNet = field(repr=False)

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the pictures that the views are cut from."""
        return len(self.mean_SS3)

    @property
    def trained_on(self) -> TrainingSet:
        """What the network keeps of its training set."""
        return TrainingSet(
            mean_SS3=self.mean_SS3,
            classes=self.classes,
            class_names=self.class_names,
            fingerprint=self.fingerprint or "",
        )

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def towers(self) -> list[Tower]:
        """Tower a, then tower b where there are two."""
        return self.network.towers

    def name(self, index: int) -> str:
        """A class in words: the first of its names."""
        names = self.class_names or self.classes
        return names[index].split(",")[0].replace("_", " ")

    @torch.inference_mode()
    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Network input float32 [B, 3, 224, 224] -> logits float32 [B, K]."""
        found: Tensor = self.network(images_BCHW.to(self.device))
        return found

    def inputs(self, pictures_BSS3: NDArray[np.uint8], view: tuple[int, int, bool]) -> Tensor:
        """Pictures uint8 [B, S, S, 3] -> network input of one view (top, left, mirrored)."""
        views = augmentation.fixed(len(pictures_BSS3), *view)
        return augmentation.cut(pictures_BSS3, self.mean_SS3, views, self.config.augment, training=False)

    def probabilities(
        self, pictures_BSS3: NDArray[np.uint8], ten_crop: bool = False, batch: int = 64
    ) -> NDArray[np.float32]:
        """Softmax outputs float32 [B, K] of the centre crop, or their average over ten crops (paper 4.1)."""
        cuts = (augmentation.ten_crops if ten_crop else augmentation.center_crop)(self.image_size)
        return _in_batches(
            pictures_BSS3,
            batch,
            lambda part: sum(
                (self.logits(self.inputs(part, cut)).softmax(1) / len(cuts) for cut in cuts),
                start=torch.zeros(len(part), len(self.classes), device=self.device),
            ),
        )

    def features(self, pictures_BSS3: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
        """Outputs of the last hidden layer, fc7, for the centre crop: float32 [B, 2F], tower a's first."""
        (center,) = augmentation.center_crop(self.image_size)
        return _in_batches(pictures_BSS3, batch, lambda part: self._fc7(self.inputs(part, center)))

    def _fc7(self, images_BCHW: Tensor) -> Tensor:
        read: list[Tensor] = []  # what fc8 of each tower is given, tower a's first
        hooks = [
            tower.fc8.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
            for tower in self.towers
        ]
        try:
            self.logits(images_BCHW)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(read, dim=1)


def _in_batches(
    pictures: NDArray[np.uint8], batch: int, compute: Callable[[NDArray[np.uint8]], Tensor]
) -> NDArray[np.float32]:
    """`compute` on `batch` pictures at a time, the results one after the other on the host."""
    parts = [compute(pictures[first : first + batch]).cpu() for first in range(0, len(pictures), batch)]
    return torch.cat(parts).numpy()


def open_trained(path: Path | None = None, which: str = "best", device: str = "auto") -> Trained:
    """Open a run's folder, a checkpoint's, or an exported file.

    Args:
        path: none is the latest run in runs/.
        which: of a run's checkpoints: best or latest.
        device: auto is a GPU where there is one.

    Raises:
        UserError: nothing there can be opened; the message says why.
    """
    path = path or run_folder.latest()
    found = _exported(path) if path.suffix == EXPORTED else _of_run(path, which)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    augmentation.require_size(found.image_size, found.source, "train it anew on images of 256 pixels")
    found.network.eval().requires_grad_(False).to(device)
    return found


def _of_run(path: Path, which: str) -> Trained:
    one = checkpoint.OWN.fullmatch(path.name) is not None
    run = checkpoint.run_of(path) if one else path
    config = run_folder.read_config(run)
    found, remarks = checkpoint.find(run, str(path) if one else which)
    for remark in remarks:
        print(remark, file=sys.stderr)
    data = TrainingSet.read(found.path) or TrainingSet.of(run_folder.store_of(run, config.run.store))
    weights = [
        _parameters(found.path / f"tower_{name}.safetensors") for name in TOWERS[: config.network.towers]
    ]
    return Trained(
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


def _exported(path: Path) -> Trained:
    if not path.is_file():
        raise UserError(f"There is no file {path}; write one with: python -m trainer.export RUN")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        mean = tensors.pop(MEAN).numpy()
        config, classes, names = from_dict(about["config"]), about["classes"], about["class_names"]
    except (safetensors.SafetensorError, OSError, KeyError, ValueError):
        raise UserError(f"{path} was not written by python -m trainer.export, or is damaged.") from None
    return Trained(
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


def _network(config: Config, classes: int, weights: list[dict[str, Tensor]], source: Path) -> TwoTowerAlexNet:
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
