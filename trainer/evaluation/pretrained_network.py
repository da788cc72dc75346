"""A trained network in one process: probabilities, features, and the whole network as one torch module.

`trainer.load` makes it. Both towers are in this process, in evaluation form: no dropout mask, float32.

B batch, C channels and F units of both towers, H height, W width, S side of the stored image (256),
K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import CheckpointConfig, Config, HardwareConfig, RunConfig, to_dict
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.evaluation import image_files
from trainer.evaluation.image_files import Images
from trainer.evaluation.layers import outputs, refusal
from trainer.model.grouped import Weights, merge
from trainer.model.network import Tower, TwoTowerAlexNet
from trainer.model.standalone import AlexNet
from trainer.runs.training_set import MEAN, TrainingSet

EXPORTED_STATE = ("step", "epoch", "seed", "versions", "init_from")


@dataclass(frozen=True, kw_only=True)
class PretrainedNetwork:
    """A trained network with the mean image and the classes of its training set.

    Example:
        network = load("runs/auto-001")
        p_BK = network.probabilities(["cat.jpg", "dog.jpg"])
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
        views = augmentation.fixed(len(images_BSS3), *view, self.config.augment.crop_size)
        return augmentation.crop(images_BSS3, self.mean_SS3, views, self.config.augment, training=False)

    @torch.inference_mode()
    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Network input float32 [B, 3, H, W] -> logits float32 [B, K]."""
        logits_BK: Tensor = self.network(x_BCHW.to(self.device))
        return logits_BK

    def preprocess(self, path: str | Path) -> NDArray[np.uint8]:
        """Make of an image file the image that the store would hold, uint8 [S, S, 3], RGB.

        The shorter side becomes S pixels, of which the central square is kept. The image is turned as its
        EXIF data say where the training set's images were.

        Raises UserError where the file cannot be read; the message has the reason.

        Example: network.preprocess("photographs/cat.jpg")    # uint8 [256, 256, 3]
        """
        return image_files.image(path, self.image_size, self.upright)

    def probabilities(self, images: Images, ten_crop: bool = False, batch: int = 64) -> NDArray[np.float32]:
        """Softmax outputs of the centre crop, or their average over ten crops (paper, section 4.1).

        Args:
            images: an image file's path, or an array uint8 [S, S, 3], RGB, as the store has them; several of
                them; or an array [B, S, S, 3].
            ten_crop: average over the four corners, the centre, and the five flipped.
            batch: images that are computed at a time.

        Returns: float32 [B, K].

        Raises ValueError for an array of another dtype or shape, UserError for a file that cannot be read.

        Example: network.probabilities(["cat.jpg", "dog.jpg"], ten_crop=True).argmax(1)
        """
        found = []
        for part_BSS3 in image_files.arrays(images, self.image_size, self.upright, batch):
            p_BK = torch.zeros(len(part_BSS3), len(self.classes), device=self.device)
            for view in self._views(ten_crop):
                p_BK += self.logits(self.inputs(part_BSS3, view)).softmax(1) / (10 if ten_crop else 1)
            found.append(p_BK.cpu())
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def features(
        self, images: Images, layers: str | Sequence[str] = ("fc7",), ten_crop: bool = False, batch: int = 64
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs of layers for the centre crop, or their averages over ten crops, by the layer's name.

        Args:
            images: as `probabilities` takes them.
            layers: one name or several, of the table that `python -m trainer.features --help` shows: conv1 to
                conv5, fc6 and fc7 are after ReLU, conv1.linear to fc7.linear before it; norm1, norm2, pool1,
                pool2, pool5; drop6 and drop7, as the next layer reads them; fc8, the logits; prob.
            ten_crop: average over the four corners, the centre, and the five flipped.
            batch: images that are computed at a time.

        Returns: float32 [B, C, H, W] or [B, F], tower a's channels before tower b's. They are what forward
        hooks on the modules of `module()` get.

        Raises ValueError for a name that is no layer, and as `probabilities` does.

        Example: network.features("cat.jpg", ("conv5", "fc7"))["conv5"]    # float32 [1, 256, 13, 13]
        """
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        if sentence := refusal(names, self._module):
            raise ValueError(sentence)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for part_BSS3 in image_files.arrays(images, self.image_size, self.upright, batch):
            sums: dict[str, Tensor] = {}
            for view in self._views(ten_crop):
                x_BCHW = self.inputs(part_BSS3, view).to(self.device)
                for name, y in outputs(self._module, x_BCHW, names).items():
                    sums[name] = sums[name] + y if name in sums else y
            for name, total in sums.items():
                found[name].append((total / 10 if ten_crop else total).cpu().contiguous())
        return {name: torch.cat(parts).numpy() for name, parts in found.items()}

    @cached_property
    def _module(self) -> AlexNet:
        """For features; in channels_last, which the convolutions of CPUs prefer."""
        module = self.module().requires_grad_(False)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module

    def _views(self, ten_crop: bool) -> list[tuple[int, int, bool]]:
        choose = augmentation.ten_crops if ten_crop else augmentation.center_crop
        return choose(self.image_size, self.crop_size)

    def require_finite(self, outputs: NDArray[np.float32]) -> None:
        """Raise UserError for outputs that are not finite numbers."""
        if not np.isfinite(outputs).all():
            raise UserError(
                f"{self.source} has outputs that are not finite numbers: its weights are damaged, or its "
                "training diverged; name another --model or --checkpoint."
            )

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
            "state": {k: v for k, v in self.state.items() if k in EXPORTED_STATE},
        }


def without_paths(config: Config) -> Config:
    """The same configuration without the folders and the hardware of the run."""
    run, hardware = RunConfig(seed=config.run.seed), HardwareConfig(precision=config.hardware.precision)
    return dataclasses.replace(config, run=run, hardware=hardware, checkpoint=CheckpointConfig())
