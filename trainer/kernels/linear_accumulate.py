"""A fully connected layer whose weights' gradient is added in place, in the product that computes it.

Autograd would write the gradient to a tensor of its own first, 38 to 75 MB for fc6, and then add that to the
array that the update reads.

B batch, I inputs, F outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fits(x_BI: Tensor, weight_FI: Tensor, bias_F: Tensor | None) -> bool:
    """Whether there are gradients to add to, and a backward pass will follow."""
    return torch.is_grad_enabled() and weight_FI.grad is not None


def linear(x_BI: Tensor, weight_FI: Tensor, bias_F: Tensor | None) -> Tensor:
    """See `kernels.linear`. The parameters' gradients are added to `.grad`; autograd returns none."""
    y: Tensor = _Product.apply(x_BI, weight_FI, bias_F)
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BI: Tensor, weight_FI: Tensor, bias_F: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_BI)
        ctx.weight, ctx.bias = weight_FI, bias_F
        if x_BI.dtype != torch.bfloat16 or x_BI.device.type != "cpu":
            return F.linear(x_BI, weight_FI, bias_F)
        # oneDNN is a third faster where the weights come first. Each sum is rounded once in either order.
        y_FB = weight_FI @ x_BI.t() if bias_F is None else torch.addmm(bias_F[:, None], weight_FI, x_BI.t())
        return y_FB.t().contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x_BI,) = ctx.saved_tensors
        (dy_BF,) = grads
        # For a transposed view oneDNN's product in bfloat16 takes twice as long.
        ctx.weight.grad.addmm_(dy_BF.t().contiguous(), x_BI)
        if ctx.bias is not None:
            ctx.bias.grad += dy_BF.sum(0)
        return (dy_BF @ ctx.weight if ctx.needs_input_grad[0] else None), None, None
