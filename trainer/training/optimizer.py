"""The paper's stochastic gradient descent (section 5), and how its rate falls.

    v <- momentum * v - decay * lr * w - lr * g
    w <- w + v

The rate is inside the velocity. torch.optim.SGD has it outside, which differs after each change of rate.

A stage's parameters, gradients and momenta are three flat arrays, so that one all-reduce and one pass over
memory serve all of its layers; the layers' tensors are views of them. A network that computes in bfloat16 has
a second copy of the weights, which the update writes in the same pass: no step casts a weight.

Bytes a parameter:       master_weights   compute_weights   grads   reduced_grads   momenta
    float32                    4                 -            4           -            4
    bfloat16, one pair         4                 2            2           -            4
    bfloat16, many pairs       4                 2            2      4 (or none)       4
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainer import kernels
from trainer.config import OptimizerConfig
from trainer.model.network import Tower


class FlatStage:
    """One stage of one tower: its parameters, gradients and momenta, each as one flat array.

    N parameters. master_weights, momenta: float32. compute_weights: what the layers read. grads: what
    backward adds to; both are of the dtype that the network computes in. reduced_grads: what is summed over
    the pairs and used by the update; the array of grads itself, unless gradients travel in another dtype.
    """

    def __init__(
        self, tower: Tower, stage: int, dtype: torch.dtype = torch.float32, travel: torch.dtype | None = None
    ) -> None:
        """`travel`: dtype of gradients between pairs; None where there is one pair."""
        self.parameters: dict[str, nn.Parameter] = {
            name: p for name, p in tower.named_parameters() if name.split(".")[0] in tower.stages[stage]
        }
        device = next(iter(self.parameters.values())).device
        size = sum(p.numel() for p in self.parameters.values())
        master = torch.promote_types(dtype, torch.float32)  # float64 where a proof computes in it
        self.master_weights = torch.empty(size, device=device, dtype=master)
        self.momenta = torch.zeros_like(self.master_weights)
        self.grads = torch.zeros_like(self.master_weights, dtype=dtype)
        self.reduced_grads = (
            self.grads if travel in (None, dtype) else torch.zeros_like(self.master_weights, dtype=travel)
        )
        self.compute_weights = self.master_weights if dtype == master else torch.empty_like(self.grads)
        self.place: dict[str, slice] = {}
        """Where each parameter lies in the flat arrays."""
        begin = 0
        for name, p in self.parameters.items():
            part = self.place[name] = slice(begin, begin + p.numel())
            begin = part.stop
            self.master_weights[part] = p.detach().reshape(-1)
            p.data = self.compute_weights[part].view(p.shape)
            p.grad = self.grads[part].view(p.shape)
        self.refresh_compute_weights()

    def refresh_compute_weights(self) -> None:
        """After loading weights: round them anew."""
        if self.compute_weights is not self.master_weights:
            self.compute_weights.copy_(self.master_weights)

    def cast_grads_for_reduce(self) -> Tensor:
        """After backward: the gradients in the array that is reduced; the other one is left at zero."""
        if self.reduced_grads is not self.grads:
            self.reduced_grads.copy_(self.grads)
            self.grads.zero_()
        return self.reduced_grads

    def value(self, name: str) -> Tensor:
        """One parameter, float32, in its shape; a view."""
        return self.master_weights[self.place[name]].view(self.parameters[name].shape)

    def gradient(self, name: str) -> Tensor:
        """One parameter's gradient as the update will use it, in its shape; a view."""
        return self.reduced_grads[self.place[name]].view(self.parameters[name].shape)

    def momentum(self, name: str) -> Tensor:
        """The momentum of one parameter, in its shape; a view."""
        return self.momenta[self.place[name]].view(self.parameters[name].shape)


def flatten(
    tower: Tower, dtype: torch.dtype = torch.float32, travel: torch.dtype | None = None
) -> list[FlatStage]:
    """All stages of a tower, flat; call it once the tower is on its device."""
    return [FlatStage(tower, i, dtype, travel) for i in range(len(tower.stages))]


def named_tensors(stages: Iterable[FlatStage]) -> dict[str, Tensor]:
    """A tower's parameters in float32, and each one's momentum under `momentum.<name>`: views."""
    found = {}
    for stage in stages:
        for name in stage.parameters:
            found[name], found[f"momentum.{name}"] = stage.value(name), stage.momentum(name)
    return found


def largest_magnitude(flat: Iterable[Iterable[FlatStage]]) -> float:
    """The largest magnitude among weights and momenta; infinite where one is NaN."""
    arrays = [array for stages in flat for stage in stages for array in (stage.master_weights, stage.momenta)]
    found = [abs(float(end)) for array in arrays for end in array.aminmax()]
    return math.inf if any(map(math.isnan, found)) else max(found)


def sgd_step_(stage: FlatStage, optim: OptimizerConfig, lr: float, frozen: tuple[str, ...] = ()) -> None:
    """One update of a stage, in one pass over its memory; leaves its gradients at zero.

    Layers named in `frozen` keep their parameters and momenta.
    """
    for name, part in stage.place.items():
        layer, kind = name.split(".")
        w, v, g = (a[part] for a in (stage.master_weights, stage.momenta, stage.reduced_grads))
        rounded = None if stage.compute_weights is stage.master_weights else stage.compute_weights[part]
        if layer in frozen:
            g.zero_()
            continue
        rate = lr * optim.bias_lr if kind == "bias" else lr
        rate *= optim.fc8_lr if layer == "fc8" else 1.0
        decay = 0.0 if kind == "bias" and not optim.bias_decay else optim.weight_decay
        decay *= optim.conv1_decay if layer == "conv1" and optim.conv1_decay is not None else 1.0
        kernels.sgd_(w, v, g, rounded, optim.momentum, rate * decay, rate)
