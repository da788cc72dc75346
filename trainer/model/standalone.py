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
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPATIAL_NORM = (5, 2.0, 0.001 / 25, 0.75)  # n, k, alpha, beta of cuda-convnet's second norm after conv2
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
# Of files without these settings.
OLDER = {"conv1_pad": 3, "pool_rounding": "up", "lrn_over": "tower", "inverted_dropout": False}

View = tuple[int, int, bool]
"""Top and left pixel of a crop, and whether it is flipped left to right."""


class AlexNet(nn.Module):
    """The network, its mean image and the names of its classes.

    Its layers are modules with the names of the literature, computed in this order: a forward hook on `relu5`
    or `norm1` gets what the paper describes.
    """

    mean_image: Tensor  # float32 [S, S, 3], of the training images, 0..255

    def __init__(self, about: dict[str, Any]) -> None:
        """about: settings, classes and image size, from the header of the weights' file; see `read`."""
        super().__init__()
        s = self.settings = {**OLDER, **about["config"]["network"]}
        self.augment = {"crop_size": 224, **about["config"]["augment"]}
        self.classes: list[str] = about["class_names"] or about["classes"]
        towers = s["towers"]
        own = 1 if s["dense"] else towers  # groups of conv2, conv4, conv5, which read their own tower alone
        c1, c2, c3, c4, _ = (towers * count for count in s["filters"])
        c5, hidden = 2 * s["filters"][4], 2 * s["hidden"]  # one tower alone has conv5, fc6, fc7 of two
        # Zeros right and below: ceil((224 - 11) / 4) + 1 = 55 windows of 11 pixels, 4 apart, reach pixel 227.
        self.pad1 = nn.ZeroPad2d((0, s["conv1_pad"], 0, s["conv1_pad"]))
        self.conv1 = nn.Conv2d(3, c1, 11, stride=4)
        self._add(s["conv1_order"], 1)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=own)
        self._add(s["conv2_order"], 2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self._add("relu", 3)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=own)
        self._add("relu", 4)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=own)
        self._add("relu-pool", 5)
        self.flatten = nn.Flatten()
        self.fc6 = nn.Linear(c5 * 6 * 6, hidden)
        self._add("relu-drop", 6)
        self.fc7 = nn.Linear(hidden, hidden)
        self._add("relu-drop", 7)
        self.fc8 = nn.Linear(hidden, len(self.classes))
        self.register_buffer("mean_image", torch.zeros(about["image_size"], about["image_size"], 3))

    def _add(self, order: str, number: int) -> None:
        """Add the operations after a layer: relu1, norm1, pool1 for "relu-lrn-pool" after conv1."""
        s = self.settings
        for operation in order.split("-"):
            if operation == "relu":
                self.add_module(f"relu{number}", ACTIVATIONS[s["activation"]]())
            elif operation == "pool":  # of 55, 27 and 13 pixels all windows fit, of 54 and 26 the last not
                window = 3 if s["overlap"] else 2
                up = s["overlap"] and (s["pool_rounding"] == "up" or number == 5)
                self.add_module(f"pool{number}", nn.MaxPool2d(window, stride=2, ceil_mode=up))
            elif operation == "drop":
                kind = nn.Dropout if s["inverted_dropout"] else PaperDropout
                self.add_module(f"drop{number}", kind(s["dropout"]))
            elif s["lrn"]:
                halves = s["towers"] if s["lrn_over"] == "tower" else 1
                constants = s["lrn_size"], s["lrn_k"], s["lrn_alpha"], s["lrn_beta"]
                self.add_module(f"norm{number}", LocalResponseNorm(halves, *constants))
                if number == 2 and s["conv2_spatial_norm"]:
                    self.spatial_norm2 = SpatialNorm(*SPATIAL_NORM)

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
        """Network input float32 [B, 3, H, W], as `inputs` returns it -> logits float32 [B, K]."""
        x = x_BCHW
        for layer in self.children():
            x = layer(x)
        return x

    def inputs(self, images_BSS3: Tensor, view: View | None = None) -> Tensor:
        """Crop images uint8 [B, S, S, 3] and subtract the mean image -> float32 [B, 3, H, W], H = W = 224.

        view: the crop, by default the centre's. Raises ValueError for images of another size or dtype.
        """
        side, size = len(self.mean_image), self.augment["crop_size"]
        if images_BSS3.dtype != torch.uint8 or images_BSS3.shape[1:] != (side, side, 3):
            found = f"{images_BSS3.dtype} {list(images_BSS3.shape)}"
            raise ValueError(f"images must be uint8, 0..255, RGB, [B, {side}, {side}, 3], not {found}")
        middle = (side - size) // 2
        top, left, flip = view or (middle, middle, False)
        crop = images_BSS3[:, top : top + size, left : left + size].float()
        same_window = self.augment["mean_window"] == "crop"
        row, column = (top, left) if same_window else (middle, middle)
        mean = self.mean_image[row : row + size, column : column + size]
        if flip:  # the mean image is flipped with the image where both have the same window
            crop = crop.flip(2)
            mean = mean.flip(1) if same_window else mean
        return ((crop - mean) / self.augment["divisor"]).permute(0, 3, 1, 2)

    @torch.no_grad()
    def probabilities(self, images_BSS3: Tensor, ten_crop: bool = False) -> Tensor:
        """Softmax outputs [B, K] of the centre crop, or their average over ten crops (4.1)."""
        end = len(self.mean_image) - self.augment["crop_size"]
        places = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
        views: list[View] = [(top, left, flip) for flip in (False, True) for top, left in places]
        chosen = views if ten_crop else [views[4]]
        return torch.stack([self(self.inputs(images_BSS3, view)).softmax(1) for view in chosen]).mean(0)


class LocalResponseNorm(nn.Module):
    """Local response normalisation (3.3) over n channels, of the same tower where `halves` is 2.

    alpha is the factor of the sum of squares; torch.nn.LocalResponseNorm divides it by n first.
    """

    def __init__(self, halves: int, n: int, k: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.halves, self.n, self.k, self.alpha, self.beta = halves, n, k, alpha, beta

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        channel = torch.arange(x_BCHW.shape[1], device=x_BCHW.device)
        half = channel * self.halves // len(channel)
        near_CC = ((channel[:, None] - channel).abs() <= self.n // 2) & (half[:, None] == half)
        # A product with a matrix of zeros and alphas takes a quarter of the time of n sums of slices.
        weight, k_C = self.alpha * near_CC.to(x_BCHW.dtype), x_BCHW.new_full((len(channel),), self.k)
        total_BHWC = F.linear((x_BCHW**2).movedim(1, -1), weight, k_C)
        return x_BCHW * total_BHWC.movedim(-1, 1) ** -self.beta


class SpatialNorm(nn.Module):
    """cuda-convnet's second normalisation after conv2, over n x n pixels of one channel."""

    def __init__(self, n: int, k: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.n, self.k, self.alpha, self.beta = n, k, alpha, beta

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        total_BCHW = F.avg_pool2d(x_BCHW**2, self.n, stride=1, padding=self.n // 2) * self.n**2
        return x_BCHW * (self.k + self.alpha * total_BCHW) ** -self.beta


class PaperDropout(nn.Module):
    """Dropout (4.2): training sets units to zero with probability p, evaluation multiplies all by 1 - p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] -> the same shape."""
        return x_BF * (torch.rand_like(x_BF) >= self.p) if self.training else x_BF * (1 - self.p)


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
