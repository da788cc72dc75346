"""Outputs of layers over many images, one batch in memory at a time: means, and each unit's strongest images.

B batch, U units: channels of a convolution, or units of a fully connected layer. T images kept for a unit.
H height, W width of a layer's output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import UserError
from trainer.evaluation.layers import LAYERS
from trainer.figures import Layer
from trainer.model.standalone import AlexNet

KEPT = 9
"""T: images that are kept for each unit."""


@dataclass(frozen=True)
class Strongest:
    """One image among those that excite a unit most."""

    image: int
    """Its place in the split."""
    output: float
    row: int
    """Of the unit's largest output in this image; 0 for fully connected layers."""
    column: int


@dataclass
class Responses:
    """The outputs of one layer, summed up over the images so far."""

    images: int = 0
    places: int = 1
    """H * W: outputs of a unit in one image."""
    width: int = 1
    """W."""
    _sums: dict[str, Tensor] = field(default_factory=dict)
    """float64 [U]: of outputs; of outputs above 0; of each image's largest output, and of its square."""
    _top: dict[str, Tensor] = field(default_factory=dict)
    """[T, U], strongest first: outputs, images, places; fewer rows after fewer images."""

    def add(self, y: Tensor) -> None:
        """Add the outputs for the next images, [B, U, H, W] or [B, U]."""
        y_BUP = y.flatten(2) if y.dim() == 4 else y[:, :, None]
        self.places, self.width = y_BUP.shape[2], y.shape[3] if y.dim() == 4 else 1
        largest_BU, at_BU = y_BUP.max(2)
        wide_BU = largest_BU.double()
        for name, sum_U in {
            "output": y_BUP.sum((0, 2), dtype=torch.float64),
            "active": (y_BUP > 0).sum((0, 2)).double(),
            "largest": wide_BU.sum(0),
            "square": (wide_BU**2).sum(0),
        }.items():
            self._sums[name] = self._sums[name] + sum_U if name in self._sums else sum_U
        numbers_B1 = torch.arange(self.images, self.images + len(y), device=y.device)[:, None]
        new = {"output": largest_BU, "image": numbers_B1.expand_as(at_BU), "place": at_BU}
        all_ = {name: torch.cat([self._top[name], new[name]]) if self._top else new[name] for name in new}
        order_TU = all_["output"].topk(min(KEPT, len(all_["output"])), dim=0).indices
        self._top = {name: values.gather(0, order_TU) for name, values in all_.items()}
        self.images += len(y)

    def mean(self) -> NDArray[np.float64]:
        """Mean output of each unit over all images and places, float64 [U]."""
        return self._sum("output") / (self.images * self.places)

    def active(self) -> NDArray[np.float64]:
        """Share of each unit's outputs that are above 0, float64 [U]."""
        return self._sum("active") / (self.images * self.places)

    def selectivity(self) -> NDArray[np.float64]:
        """How far the last of the kept images is above the average, in standard deviations of the unit.

        An image counts by the unit's largest output in it. 0 for a unit of equal outputs.
        """
        mean_U = self._sum("largest") / self.images
        std_U = np.sqrt(np.maximum(self._sum("square") / self.images - mean_U**2, 0))
        above_U = self._top["output"][-1].double().cpu().numpy() - mean_U
        return above_U / np.where(std_U > 0, std_U, np.inf)

    def strongest(self, unit: int) -> list[Strongest]:
        """The images with the largest outputs of one unit, strongest first; each image once."""
        columns = [self._top[name][:, unit].tolist() for name in ("image", "output", "place")]
        return [
            Strongest(image, output, *divmod(place, self.width))
            for image, output, place in zip(*columns, strict=True)
        ]

    def _sum(self, name: str) -> NDArray[np.float64]:
        return self._sums[name].cpu().numpy()


@torch.inference_mode()
def measure(network: AlexNet, layers: Sequence[Layer], batches: Iterable[Tensor]) -> dict[Layer, Responses]:
    """The outputs of layers, by the layer's name, over batches of network input, float32 [B, 3, H, W].

    Raises UserError for a layer that this network does not have.
    """
    found = {layer: Responses() for layer in layers}

    def watch(layer: Layer) -> Any:
        return submodule(network, layer).register_forward_hook(lambda _m, _x, y: found[layer].add(y))

    hooks = [watch(layer) for layer in layers]
    try:
        for x_BCHW in batches:
            network(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def submodule(network: AlexNet, layer: Layer) -> torch.nn.Module:
    """The submodule whose outputs have a layer's name. Raises UserError where the network has none."""
    found = getattr(network, LAYERS[layer].module, None)
    if not isinstance(found, torch.nn.Module):
        raise UserError(f"this network has no {layer}")
    return found
