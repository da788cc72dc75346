"""A fully connected layer whose weights' gradient is added to where it is summed and used, in one product.

Autograd would make the gradient as a tensor of its own first, 38 to 75 MB for fc6, and then add that.

B batch, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BI: Tensor, weight_OI: nn.Parameter, bias_O: nn.Parameter | None) -> Tensor:
        ctx.save_for_backward(x_BI)
        ctx.weight, ctx.bias = weight_OI, bias_O
        return _product(x_BI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x_BI,) = ctx.saved_tensors
        (dy_BO,) = grads
        # Of a transposed view oneDNN's product in bfloat16 takes twice as long.
        ctx.weight.grad.addmm_(dy_BO.t().contiguous(), x_BI)
        if ctx.bias is not None:
            ctx.bias.grad += dy_BO.sum(0)
        return (dy_BO @ ctx.weight if ctx.needs_input_grad[0] else None), None, None


def _product(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    if x_BI.dtype != torch.bfloat16 or x_BI.device.type != "cpu":
        return nn.functional.linear(x_BI, weight_OI, bias_O)
    # oneDNN is a third faster where the weights come first. Each sum is rounded once in either order.
    y_OB = weight_OI @ x_BI.t() if bias_O is None else torch.addmm(bias_O[:, None], weight_OI, x_BI.t())
    return y_OB.t().contiguous()


class Linear(nn.Linear):
    """`nn.Linear`; where its parameters have gradients already, backward adds to these."""

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] -> [B, O], both of the weights' dtype."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or self.weight.grad is None:
            return super().forward(x_BI)
        product: Tensor = _Product.apply(x_BI, self.weight, self.bias)
        return product
