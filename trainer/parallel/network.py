"""The network as one rank holds it: its towers, and their forward pass over a transport.

    [conv1 conv2] -gather- [conv3 conv4 conv5] -gather- [fc6] -gather- [fc7 fc8] -reduce-> logits

A rank holds one tower or, alone, both: every list here has one entry for each tower that it holds. Training
adds gradients and updates (training/step.py); evaluation needs no more than this.

B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.model.network import DropoutMasks, Tower
from trainer.parallel.topology import Topology
from trainer.parallel.transport import Transport


class RunsStages(Protocol):
    """A tower, or a tower whose stages are compiled."""

    def stage(self, index: int, x: Tensor, masks: DropoutMasks | None = None) -> Tensor:
        """The output of one stage."""


class Activations(NamedTuple):
    """What the backward pass needs of a forward pass."""

    inputs: list[Tensor]
    """Of each stage: a leaf, which receives the gradient of the stage's input."""
    outputs: list[list[Tensor]]
    """Of each stage, one tensor for each tower on this rank."""
    logits_BK: Tensor
    """float32, the same on both towers."""


class ParallelNetwork:
    """This rank's towers and the exchanges with its partner."""

    def __init__(
        self,
        towers: Sequence[Tower],
        classes: int,
        topology: Topology,
        transport: Transport,
        dtype: torch.dtype,
    ) -> None:
        """`dtype`: of the towers' parameters and of the activations between stages."""
        self.towers, self.classes, self.dtype = list(towers), classes, dtype
        self.topology, self.transport = topology, transport
        self.runners: Sequence[RunsStages] = self.towers
        """What computes the stages of each tower."""
        self.mark: Callable[..., None] = lambda phase, waiting=False: None
        """Called with the name of each phase as it begins, and whether that phase waits for another rank."""
        self.stages = range(len(self.towers[0].stages))
        self.last = self.stages[-1]

    def forward(self, images_BCHW: Tensor, masks: Sequence[DropoutMasks | None]) -> Activations:
        """The forward pass of a training step.

        images_BCHW: float32 [B, 3, H, W]; masks: of dropout, one entry for each tower.
        """
        inputs: list[Tensor] = []
        outputs: list[list[Tensor]] = []
        x = images_BCHW
        for stage in self.stages:
            x = x.detach()
            if stage > 0:  # the images need no gradient, and conv1 itself converts them
                x = x.to(self.dtype).requires_grad_()
            inputs.append(x)
            self.mark(f"the forward pass of stage {stage + 1}")
            outputs.append(self._stage(stage, x, masks))
            if stage < self.last:
                self.mark(f"the all-gather after stage {stage + 1}", waiting=True)
                x = self.transport.pair_all_gather([half.detach() for half in outputs[stage]])
        self.mark("the all-reduce of the logits", waiting=True)
        logits_BK = self.transport.pair_all_reduce([share.detach() for share in outputs[self.last]])
        return Activations(inputs, outputs, logits_BK)

    @torch.no_grad()
    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Evaluation: images float32 [B, 3, H, W] -> logits float32 [B, K], the same on both towers."""
        x, no_dropout = images_BCHW, [None] * len(self.towers)
        for stage in self.stages:
            self.mark(f"the evaluation of stage {stage + 1}")
            outputs = self._stage(stage, x, no_dropout)
            if stage < self.last:
                self.mark(f"the evaluation's all-gather after stage {stage + 1}", waiting=True)
                x = self.transport.pair_all_gather(outputs)
        self.mark("the evaluation's all-reduce of the logits", waiting=True)
        return self.transport.pair_all_reduce(outputs)

    def _stage(self, stage: int, x: Tensor, masks: Sequence[DropoutMasks | None]) -> list[Tensor]:
        return [runner.stage(stage, x, own) for runner, own in zip(self.runners, masks, strict=True)]
