"""The two-tower AlexNet of 2012 as one network on one device. This file needs torch and nothing else.

    network = AlexNet.load("alexnet.safetensors")
    p_BK = network.probabilities(images_BSS3)    # uint8, RGB: shorter side to 256, central 256x256
    print(network.classes[p_BK[0].argmax()])

The towers are the halves of each layer: conv2, conv4 and conv5 have two groups, and local response
normalisation stays within a half. Section numbers are those of Krizhevsky, Sutskever, Hinton (2012).

B batch, S side of the image (256), C channels, H height, W width, K classes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CROP = 224
# Zeros right and below conv1's input: ceil((224 - 11) / 4) + 1 = 55 windows of 11 pixels, stride 4.
CONV1_PAD = (0, 3, 0, 3)
SPATIAL_NORM = (5, 2.0, 0.001 / 25, 0.75)  # n, k, alpha, beta of cuda-convnet's second norm after conv2
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

View = tuple[int, int, bool]
"""Top and left pixel of a crop, and whether it is flipped left to right."""


class AlexNet(nn.Module):
    """The network, its mean image and the names of its classes."""

    mean_image: Tensor  # float32 [S, S, 3], of the training images, 0..255

    def __init__(self, about: dict[str, Any]) -> None:
        """about: settings, classes and image size, from the header of the weights' file; see `read`."""
        super().__init__()
        s = about["config"]["network"]
        self.settings, self.augment = s, about["config"]["augment"]
        self.classes: list[str] = about["class_names"] or about["classes"]
        towers = self.towers = s["towers"]
        own = 1 if s["dense"] else towers  # groups of conv2, conv4, conv5, which read their own tower alone
        c1, c2, c3, c4, _ = (towers * count for count in s["filters"])
        c5, hidden = 2 * s["filters"][4], 2 * s["hidden"]  # one tower alone has conv5, fc6, fc7 of two
        self.conv1 = nn.Conv2d(3, c1, 11, stride=4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=own)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=own)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=own)
        self.fc6 = nn.Linear(c5 * 6 * 6, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, len(self.classes))
        self.register_buffer("mean_image", torch.zeros(about["image_size"], about["image_size"], 3))

    @staticmethod
    def load(path: str | Path) -> AlexNet:
        """Load the network, in evaluation form, from the .safetensors file exported with this module.

        Raises ValueError where the file is damaged or another program's.
        """
        try:
            tensors, about = read(path)
            network = AlexNet(about)
            network.load_state_dict(tensors)
        except (struct.error, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is no exported network, or is damaged: {error}") from error
        return network.eval().requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Network input float32 [B, 3, 224, 224], as `inputs` returns it -> logits float32 [B, K]."""
        x = self._relu_lrn_pool(self.conv1(F.pad(x_BCHW, CONV1_PAD)), self.settings["conv1_order"], False)
        x = self._relu_lrn_pool(
            self.conv2(x), self.settings["conv2_order"], self.settings["conv2_spatial_norm"]
        )
        activation = ACTIVATIONS[self.settings["activation"]]
        x = activation(self.conv3(x))
        x = activation(self.conv4(x))
        x = self._pool(activation(self.conv5(x)))
        keep = 1 - self.settings["dropout"]  # in evaluation outputs are scaled, none is dropped (4.2)
        x = activation(self.fc6(x.flatten(1))) * keep
        x = activation(self.fc7(x)) * keep
        logits_BK: Tensor = self.fc8(x)
        return logits_BK

    def inputs(self, images_BSS3: Tensor, view: View | None = None) -> Tensor:
        """Crop images uint8 [B, S, S, 3] and subtract the mean image -> float32 [B, 3, 224, 224].

        view: the crop, by default the centre's.
        """
        margin = len(self.mean_image) - CROP
        top, left, flip = view or (margin // 2, margin // 2, False)
        crop = images_BSS3[:, top : top + CROP, left : left + CROP].float()
        same_window = self.augment["mean_window"] == "crop"
        row, column = (top, left) if same_window else (margin // 2, margin // 2)
        mean = self.mean_image[row : row + CROP, column : column + CROP]
        if flip:  # the mean image is flipped with the image where both have the same window
            crop = crop.flip(2)
            mean = mean.flip(1) if same_window else mean
        return ((crop - mean) / self.augment["divisor"]).permute(0, 3, 1, 2)

    @torch.no_grad()
    def probabilities(self, images_BSS3: Tensor, ten_crop: bool = False) -> Tensor:
        """Softmax outputs [B, K] of the centre crop, or their average over ten crops (4.1)."""
        end = len(self.mean_image) - CROP
        places = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
        views: list[View] = [(top, left, flip) for flip in (False, True) for top, left in places]
        chosen = views if ten_crop else [views[4]]
        return torch.stack([self(self.inputs(images_BSS3, view)).softmax(1) for view in chosen]).mean(0)

    def _relu_lrn_pool(self, x: Tensor, order: str, spatial_norm: bool) -> Tensor:
        """The operations after conv1 and conv2 in this order, such as "relu-lrn-pool"."""
        s = self.settings
        for operation in order.split("-"):
            if operation == "relu":
                x = ACTIVATIONS[s["activation"]](x)
            elif operation == "pool":
                x = self._pool(x)
            elif s["lrn"]:
                x = lrn(x, self.towers, s["lrn_size"], s["lrn_k"], s["lrn_alpha"], s["lrn_beta"])
                if spatial_norm:
                    n, k, alpha, beta = SPATIAL_NORM
                    total = F.avg_pool2d(x * x, n, stride=1, padding=n // 2) * n**2
                    x = x * (k + alpha * total) ** -beta
        return x

    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel_size=3 if self.settings["overlap"] else 2, stride=2)


def lrn(x_BCHW: Tensor, towers: int, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """Local response normalisation (3.3) over n channels of the same tower.

    alpha is the factor of the sum of squares; torch.nn.functional.local_response_norm divides it by n first.
    """
    x = x_BCHW.unflatten(1, (towers, -1))  # [B, tower, C, H, W]
    squares = F.pad(x * x, (0, 0, 0, 0, n // 2, n // 2))
    C = x.shape[2]
    total = sum((squares[:, :, j : j + C] for j in range(n)), start=torch.zeros_like(x))
    return (x * (k + alpha * total) ** -beta).flatten(1, 2)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a .safetensors file: tensors by name, and the settings and classes from its header.

    The format: 8 bytes with the header's length (little-endian), the header in JSON, then the tensors' bytes.
    """
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about: dict[str, Any] = json.loads(header.pop("__metadata__")["about"])
    values = torch.frombuffer(bytearray(data[8 + length :]), dtype=torch.float32)  # as all are exported
    tensors = {}
    for name, entry in header.items():
        begin, end = (offset // 4 for offset in entry["data_offsets"])
        tensors[name] = values[begin:end].view(entry["shape"])
    return tensors, about
