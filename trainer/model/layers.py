"""The layers with parameters: torch's modules, computed through `trainer.kernels`.

B batch, C channels, O filters, H and W of an input, h and w of an output; I inputs, F outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer import kernels


class Conv1(nn.Conv2d):
    """The first convolution, of filters 11 x 11, 4 pixels apart."""

    def __init__(self, filters: int, pad: int) -> None:
        """pad: zeros beyond the right and the bottom edge."""
        super().__init__(3, filters, 11, stride=4)
        self.pad = pad

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Images [B, 3, 224, 224] of any dtype -> [B, O, 55, 55] of the weights' dtype."""
        return kernels.conv1(x_B3HW, self.weight, self.bias, self.pad)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with square filters, 1 pixel apart."""

    def forward(self, x_BCHW: Tensor, relu: bool = False) -> Tensor:
        """[B, C, H, W] -> [B, O, h, w]; with `relu` the ReLU of it."""
        return kernels.conv2d(x_BCHW, self.weight, self.bias, int(self.padding[0]), relu)


class Linear(nn.Linear):
    """`nn.Linear`; where its parameters have gradients already, backward adds to these."""

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] -> [B, F]."""
        return kernels.linear(x_BI, self.weight, self.bias)
