"""A trained network in one process: probabilities, features, and the whole network as one torch module.

`trainer.load` makes it. Both towers are in this process, in evaluation form: no dropout mask, float32.

B batch, C channels and F units of both towers, H height, W width, S side of the stored image (256),
K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import CheckpointConfig, Config, HardwareConfig, RunConfig, to_dict
from trainer.data import augmentation
from trainer.model.grouped import Weights, merge
from trainer.model.network import LAYERS, Tower, TwoTowerAlexNet
from trainer.model.standalone import AlexNet
from trainer.runs.training_set import MEAN, TrainingSet


@dataclass(frozen=True, kw_only=True)
class PretrainedNetwork:
    """A trained network with the mean image and the classes of its training set.

    Example:
        network = load("runs/auto-001")
        p_BK = network.probabilities(images_BSS3)
        print(network.classes[p_BK[0].argmax()])
    """

    config: Config
    source: Path
    """The checkpoint's folder, or the exported file."""
    run: Path | None
    """The run's folder; None for an exported file."""
    state: dict[str, Any]
    """The checkpoint's state.json: step, epoch, seed, versions."""
    classes: tuple[str, ...]
    """K names as the source's folders have them, such as n01440764.

    Example: network.classes[3]
    """
    class_names: tuple[str, ...] | None
    """The same in words; None where the source of the images has no such names."""
    mean_SS3: NDArray[np.float32] = field(repr=False)
    """The training set's mean image, 0..255."""
    fingerprint: str | None = None
    """Of the store that the network was trained on; None where an exported file does not have it."""
    upright: bool = False
    """Whether the training set's images were turned as their EXIF data say; `predict` does the same."""
    network: TwoTowerAlexNet = field(repr=False)

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the images that the crops are cut from."""
        return len(self.mean_SS3)

    @property
    def crop_size(self) -> int:
        """H = W, the side in pixels of a crop: the network's input."""
        return self.config.augment.crop_size

    @property
    def trained_on(self) -> TrainingSet:
        """The part of the training set that belongs to the network."""
        return TrainingSet(
            mean_SS3=self.mean_SS3,
            classes=self.classes,
            class_names=self.class_names,
            fingerprint=self.fingerprint or "",
            upright=self.upright,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.network.parameters()).device

    @property
    def towers(self) -> list[Tower]:
        """Tower a, then tower b where there are two."""
        return self.network.towers

    def name(self, index: int) -> str:
        """A class in words: the first of its names."""
        names = self.class_names or self.classes
        return names[index].split(",")[0].replace("_", " ")

    def inputs(self, images_BSS3: NDArray[np.uint8], view: tuple[int, int, bool]) -> Tensor:
        """Images uint8 [B, S, S, 3] -> network input float32 [B, 3, H, W] of one view.

        view: (top, left, flip), in pixels; the centre crop of 256 pixels is (16, 16, False).
        """
        views = augmentation.fixed(len(images_BSS3), *view)
        return augmentation.crop(images_BSS3, self.mean_SS3, views, self.config.augment, training=False)

    @torch.inference_mode()
    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Network input float32 [B, 3, H, W] -> logits float32 [B, K]."""
        logits_BK: Tensor = self.network(x_BCHW.to(self.device))
        return logits_BK

    def probabilities(
        self, images_BSS3: NDArray[np.uint8], ten_crop: bool = False, batch: int = 64
    ) -> NDArray[np.float32]:
        """Softmax outputs of the centre crop, or their average over ten crops (paper, section 4.1).

        Args:
            images_BSS3: uint8 [B, S, S, 3], RGB, as the store has them.
            ten_crop: average over the four corners, the centre, and the five flipped.
            batch: images that are computed at a time.

        Returns: float32 [B, K].

        Example: network.probabilities(images_BSS3, ten_crop=True).argmax(1)
        """
        choose = augmentation.ten_crops if ten_crop else augmentation.center_crop
        views = choose(self.image_size, self.crop_size)
        found = []
        for part_BSS3 in _batches(images_BSS3, batch):
            p_BK = torch.zeros(len(part_BSS3), len(self.classes), device=self.device)
            for view in views:
                p_BK += self.logits(self.inputs(part_BSS3, view)).softmax(1) / len(views)
            found.append(p_BK.cpu())
        return torch.cat(found).numpy()

    def features(
        self, images_BSS3: NDArray[np.uint8], layers: str | Sequence[str] = ("fc7",), batch: int = 64
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs of layers for the centre crop, by the layer's name.

        Args:
            images_BSS3: uint8 [B, S, S, 3], RGB, as the store has them.
            layers: one name or several, of conv1 to conv5, fc6, fc7 and fc8.
            batch: images that are computed at a time.

        Returns: float32 arrays, tower a's channels before tower b's.
            conv1 to conv5: [B, C, H, W] after ReLU. In the paper's order, which pools after it, conv1 has
            55x55 pixels, conv2 27x27, the others 13x13.
            fc6, fc7: [B, F] after ReLU, times 1 - dropout, as the next layer reads them (section 4.2).
            fc8: the logits, [B, K].

        Raises ValueError for a name that is no layer.

        Example: network.features(images_BSS3, ("conv5", "fc7"))["conv5"]    # float32 [B, 256, 13, 13]
        """
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        unknown = [name for name in names if name not in LAYERS]
        if unknown:
            raise ValueError(f"{unknown} are not among the layers {', '.join(LAYERS)}")
        (center,) = augmentation.center_crop(self.image_size, self.crop_size)
        found = [self._outputs(self.inputs(part, center), names) for part in _batches(images_BSS3, batch)]
        return {name: torch.cat([part[name] for part in found]).contiguous().numpy() for name in names}

    def _outputs(self, x_BCHW: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The outputs of the layers for one batch of network input, on the host."""
        parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}  # tower a's, then tower b's

        def watch(layer: str, x: Tensor) -> None:
            if layer in parts:
                parts[layer].append(x.cpu())

        for tower in self.towers:
            tower.watch = watch
        try:
            logits_BK = self.logits(x_BCHW)
        finally:
            for tower in self.towers:
                tower.watch = None
        if "fc8" in parts:
            parts["fc8"] = [logits_BK.cpu()]
        found = {layer: torch.cat(outputs, dim=1) for layer, outputs in parts.items()}
        for layer in found.keys() & {"fc6", "fc7"}:  # `watch` gets them before they are scaled
            found[layer] = found[layer] * (1 - self.config.network.dropout)
        return found

    def module(self) -> AlexNet:
        """The whole network as one torch.nn.Module, on this network's device, with a copy of the weights.

        Its forward takes the network's input, float32 [B, 3, H, W], and returns logits float32 [B, K]. It
        is in evaluation form, and gradients can be taken with respect to its parameters and its input.

        Example:
            module = network.module()
            x_BCHW = network.inputs(images_BSS3, (16, 16, False)).to(network.device).requires_grad_()
            module(x_BCHW)[0, 3].backward()    # x_BCHW.grad: how the logit of class 3 depends on each pixel
        """
        with torch.device("meta"):  # no initial weights are drawn
            module = AlexNet(self.about())
        module.load_state_dict(self.tensors(), assign=True)
        return module.to(self.device).eval()

    def tensors(self) -> Weights:
        """Copies of the parameters and the mean image by the names of `AlexNet`, float32, on the host."""
        tensors = merge([dict(tower.state_dict()) for tower in self.towers])
        tensors[MEAN] = torch.from_numpy(self.mean_SS3).clone()
        return {name: tensor.cpu().float().contiguous() for name, tensor in tensors.items()}

    def about(self) -> dict[str, Any]:
        """What `AlexNet` and an exported file need next to the tensors: settings, classes, training state."""
        return {
            "config": to_dict(without_paths(self.config)),
            "classes": self.classes,
            "class_names": self.class_names,
            "image_size": self.image_size,
            "fingerprint": self.fingerprint,
            "upright": self.upright,
            "state": {k: v for k, v in self.state.items() if k in ("step", "epoch", "seed", "versions")},
        }


def without_paths(config: Config) -> Config:
    """The same configuration without the folders and the hardware of the run."""
    run, hardware = RunConfig(seed=config.run.seed), HardwareConfig(precision=config.hardware.precision)
    return dataclasses.replace(config, run=run, hardware=hardware, checkpoint=CheckpointConfig())


def _batches(images_BSS3: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    """At most `size` images at a time; one empty batch where there are none."""
    for first in range(0, max(1, len(images_BSS3)), size):
        yield images_BSS3[first : first + size]
