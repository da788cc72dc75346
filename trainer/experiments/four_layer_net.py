"""The four-layer network of the paper's Figure 1, for CIFAR-10.

The paper names four layers and CIFAR-10, and no more. cuda-convnet, the program of 2012, comes with such a
network for CIFAR-10 (its example layers): three convolutions of 32, 32 and 64 filters of 5x5, and a fully
connected layer of ten units. A 3x3 pooling with stride 2 follows each convolution: the maximum after the
first, the mean after the others. The initial weights are that program's too. Its normalisation layers are
left out, for the paper uses no regularisation here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.experiments.arguments import Activation

INIT_STD = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01}


class FourLayerNet(nn.Module):
    """Pixels less their mean, float32 [B, 3, 32, 32], about -120..120 -> logits [B, 10]."""

    def __init__(self, activation: Activation, seed: int) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = torch.relu if activation == "relu" else torch.tanh
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc10 = nn.Linear(64 * 4 * 4, 10)
        draw = torch.Generator().manual_seed(seed)
        for name, std in INIT_STD.items():
            layer = getattr(self, name)
            nn.init.normal_(layer.weight, std=std, generator=draw)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # ceil_mode: 32 -> 16 -> 8 -> 4, for cuda-convnet's windows extend beyond the edge.
        x = self.activation(F.max_pool2d(self.conv1(x_BCHW), 3, 2, ceil_mode=True))
        x = F.avg_pool2d(self.activation(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.avg_pool2d(self.activation(self.conv3(x)), 3, 2, ceil_mode=True)
        return self.fc10(x.flatten(1))
