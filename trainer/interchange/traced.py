"""The computation that an ONNX file or a torch.export program holds: the network, with one of two inputs.

pictures   uint8 [batch, S, S, 3], RGB, as the store has them. The centre crop, the mean image and the divisor
           are inside, so that the program that reads the file needs no other.
crops      float32 [batch, 3, H, W], as `AlexNet.inputs` returns them: cropped, the mean image subtracted,
           divided by the divisor.

The output is `logits`, float32 [batch, K].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.model.standalone import AlexNet

Input = Literal["pictures", "crops"]

DYNAMIC = ({0: torch.export.Dim("batch")},)


class CenterCropNetwork(nn.Module):
    """The centre crop and the network after it."""

    def __init__(self, network: AlexNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """Images uint8 [B, S, S, 3] -> logits float32 [B, K]."""
        logits_BK: Tensor = self.network(self.network.inputs(pictures))
        return logits_BK


def module(network: AlexNet, kind: Input) -> nn.Module:
    """The module to trace, in evaluation form."""
    return CenterCropNetwork(network).eval() if kind == "pictures" else network.eval()


def given(network: AlexNet, kind: Input, images_BSS3: Tensor) -> Tensor:
    """The input of that kind for images uint8 [B, S, S, 3]."""
    return images_BSS3 if kind == "pictures" else network.inputs(images_BSS3)


def example(network: AlexNet, kind: Input) -> Tensor:
    """An input to trace with. The exporter takes a batch of one as fixed."""
    size = len(network.mean_image)
    return given(network, kind, torch.zeros(2, size, size, 3, dtype=torch.uint8))
