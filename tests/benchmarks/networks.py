"""The peers of a training step: two networks as users write them in torch.nn."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def one_tower(classes: int = 1000) -> nn.Sequential:
    """Build the single-tower AlexNet of model zoos: 64-192-384-256-256 filters, neither LRN nor groups."""
    widths = (3, 64, 192, 384, 256, 256)
    windows = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # side, stride, padding
    layers: list[nn.Module] = []
    for number, (side, stride, padding) in enumerate(windows):
        layers += [
            nn.Conv2d(widths[number], widths[number + 1], side, stride, padding),
            nn.ReLU(inplace=True),
        ]
        if number in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, 2))
    return nn.Sequential(*layers, nn.Flatten(), *_classifier(classes))


def two_towers(classes: int = 1000) -> nn.Sequential:
    """Build both towers as halves of the channels; conv2, conv4 and conv5 have groups=2."""
    convolutions = (
        [nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True), TowerwiseLRN()],
        [nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True), TowerwiseLRN()],
        [nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)],
        [nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True)],
        [nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True)],
    )
    layers: list[nn.Module] = []
    for number, convolution in enumerate(convolutions):
        layers += convolution
        if number in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, 2))
    return nn.Sequential(*layers, nn.Flatten(), *_classifier(classes))


class TowerwiseLRN(nn.Module):
    """torch's local response normalisation, applied to each half of the channels separately."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        halves = x_BCHW.reshape(
            2 * B, C // 2, H, W
        )  # a view: the halves of an image are two consecutive images
        return F.local_response_norm(halves, 5, alpha=5e-4, beta=0.75, k=2.0).reshape(B, C, H, W)


def _classifier(classes: int) -> list[nn.Module]:
    return [
        *(nn.Dropout(0.5), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True)),
        *(nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
        nn.Linear(4096, classes),
    ]
