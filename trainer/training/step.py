"""One step of training: Figure 2 of the paper as code.

    forward     stage by stage; between two stages both towers' outputs are gathered
    loss        softmax cross-entropy, the mean over the global batch; no update if it is not finite
    backward    stage by stage, from the top; as soon as a stage's gradients exist their all-reduce begins,
                while the stages below still compute
    update      when a stage's sum has arrived

A rank holds one tower or, alone, both: every list here has one entry for each tower that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from trainer import kernels
from trainer.config import Config
from trainer.errors import UserError
from trainer.model.dropout import dropout_masks
from trainer.model.initial_weights import build_tower
from trainer.model.network import DropoutMasks, Tower
from trainer.parallel.topology import Topology, first_on_each_host
from trainer.parallel.transport import Pending, Transport, connect
from trainer.training.compiled import CompiledTower, require_compiler
from trainer.training.health import Observation
from trainer.training.optimizer import FlatStage, flatten, sgd_step_


class DivergedError(UserError):
    """The network computes no finite loss any more; the same on all ranks."""


class Trainer:
    """The towers of this rank with everything that a step needs."""

    def __init__(self, config: Config, topology: Topology, classes: int) -> None:
        o = config.optim
        if o.batch_size is None:
            raise UserError("The batch size is not settled yet.")
        if o.batch_size % topology.pairs:
            raise UserError(
                f"A batch of {o.batch_size} does not divide among {topology.pairs} pairs of ranks: "
                f"--batch-size must be a multiple of {topology.pairs}."
            )
        kernels.use(config.hardware.kernels)
        self.config = config
        self.topology = topology
        self.classes = classes
        self.batch_size = o.batch_size
        self.transport: Transport = connect(topology, config.hardware.transport)
        self.precision = resolve_precision(config.hardware.precision, topology.device)
        self.towers: list[Tower] = [
            build_tower(config.network, classes, name, config.run.seed).to(topology.device)
            for name in topology.towers
        ]
        self.dtype = getattr(torch, self.precision)
        travel = getattr(torch, config.hardware.gradient_dtype) if topology.pairs > 1 else None
        if topology.device.type == "cpu" and topology.world.size > 1:
            first_on_each_host(topology.world, lambda: compile_loops(config, self.dtype, travel))
        self.flat: list[list[FlatStage]] = [flatten(tower, self.dtype, travel) for tower in self.towers]
        self.runners: Sequence[Tower | CompiledTower] = self.towers
        """What runs the stages of each tower."""
        if config.hardware.compile:
            self._compile()
        self.mark: Callable[..., None] = lambda phase, waiting=False: None
        """Is told what comes next, and whether that waits for another rank."""
        self.stages = range(len(self.towers[0].stages))
        self.last = self.stages[-1]

    @property
    def local_batch(self) -> int:
        """Samples of the global batch that this rank's pair takes."""
        return self.batch_size // self.topology.pairs

    def _compile(self) -> None:
        """Have the stages compiled before the first step; first, for the disk, by one rank of each tower."""
        place = self.topology
        require_compiler(place.device)
        self.runners = compiled = [CompiledTower(tower, place.threads) for tower in self.towers]

        def warm_up() -> None:
            for tower, keep in zip(compiled, self._dropout(step=0), strict=True):
                assert keep is not None
                shape = (self.local_batch, 3, 224, 224)
                tower.warm_up(torch.empty(shape, device=place.device), self.dtype, keep)

        if place.world.size > 1:
            first_on_each_host(place.world, warm_up, ranks=self.config.network.towers)
        warm_up()

    def positions(self) -> Tensor:
        """Which samples of the global batch this pair takes, int64 [local_batch]."""
        first = self.topology.pair * self.local_batch
        return torch.arange(first, first + self.local_batch)

    def train_step(
        self,
        images_BCHW: Tensor,
        labels_B: Tensor,
        step: int,
        lr: float,
        frozen: tuple[str, ...] = (),
        observation: Observation | None = None,
    ) -> float:
        """Train on this pair's share of a global batch; returns the loss, the mean over the global batch.

        images_BCHW: float32 [local_batch, 3, 224, 224]; labels_B: int64 [local_batch]. Raises DivergedError,
        before any parameter changes, when the loss is not finite.
        """
        loss, pending = self._forward_backward(images_BCHW, labels_B, step)
        if observation:
            self._wait_for(pending)
            observation.see_gradients(self.flat)
        for stage in reversed(self.stages):
            for flat, reduction in zip(self.flat, pending[stage], strict=True):
                self.mark(f"the all-reduce of stage {stage + 1}", waiting=True)
                reduction.result()
                self.mark(f"the update of stage {stage + 1}")
                sgd_step_(flat[stage], self.config.optim, lr, frozen)
        return loss

    def gradients(self, images_BCHW: Tensor, labels_B: Tensor, step: int) -> float:
        """A step without its update: the summed gradients stay in the parameters' `.grad`."""
        loss, pending = self._forward_backward(images_BCHW, labels_B, step)
        self._wait_for(pending)
        return loss

    def _wait_for(self, pending: dict[int, list[Pending]]) -> None:
        self.mark("the all-reduce", waiting=True)
        for reductions in pending.values():
            for reduction in reductions:
                reduction.result()

    def _forward_backward(
        self, images_BCHW: Tensor, labels_B: Tensor, step: int
    ) -> tuple[float, dict[int, list[Pending]]]:
        """The mean loss over the global batch, and the gradients' reductions under way, by stage."""
        inputs, outputs = self._forward(images_BCHW, self._dropout(step))
        self.mark("the sum of the logits", waiting=True)
        logits_BK = self.transport.pair_all_reduce([share.detach() for share in outputs[self.last]])
        loss, grad_BK = mean_gradient(logits_BK, labels_B, self.batch_size)
        self.mark("the sum of the losses", waiting=True)
        mean_loss = self.transport.all_reduce_scalars(loss[None].double() / self.batch_size).item()
        if not math.isfinite(mean_loss):
            raise DivergedError(
                f"The loss at step {step} is {mean_loss}: training diverged, and the step was not taken."
            )
        return mean_loss, self._backward(inputs, outputs, grad_BK)

    def _forward(
        self, x: Tensor, keeps: list[DropoutMasks | None]
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Each stage's input, a leaf that gathers its gradient, and its outputs, one for each tower."""
        inputs: list[Tensor] = []
        outputs: list[list[Tensor]] = []
        for stage in self.stages:
            x = x.detach()
            if stage > 0:  # the images need no gradient, and conv1 itself converts them
                x = x.to(self.dtype).requires_grad_()
            inputs.append(x)
            self.mark(f"the forward pass of stage {stage + 1}")
            outputs.append(self._stage(stage, x, keeps))
            if stage < self.last:
                self.mark(f"the gather after stage {stage + 1}", waiting=True)
                x = self.transport.pair_all_gather([half.detach() for half in outputs[stage]])
        return inputs, outputs

    def _backward(
        self, inputs: list[Tensor], outputs: list[list[Tensor]], grad: Tensor
    ) -> dict[int, list[Pending]]:
        """Gradients into the flat buffers, top stage first; returns the reductions under way, by stage."""
        pending: dict[int, list[Pending]] = {}
        grads = [grad] * len(self.towers)  # the sum's adjoint: both towers get the logits' gradient
        for stage in reversed(self.stages):
            self.mark(f"the backward pass of stage {stage + 1}")
            for output, output_grad in zip(outputs[stage], grads, strict=True):
                output.backward(output_grad)
            outputs[stage] = []  # free the stage's activations
            pending[stage] = [
                self.transport.all_reduce_async(flat[stage].cast_grads_for_reduce()) for flat in self.flat
            ]
            whole = inputs[stage].grad
            if stage > 0 and whole is not None:
                self.mark(f"the gather's adjoint before stage {stage + 1}", waiting=True)
                grads = self.transport.pair_reduce_scatter(whole)
        return pending

    @torch.no_grad()
    def logits(self, images_BCHW: Tensor) -> Tensor:
        """Evaluation: images float32 [B, 3, 224, 224] -> logits float32 [B, K], the same on both towers."""
        self.mark("an evaluation", waiting=True)
        x, everyone = images_BCHW, [None] * len(self.towers)
        for stage in range(self.last):
            x = self.transport.pair_all_gather(self._stage(stage, x, everyone))
        return self.transport.pair_all_reduce(self._stage(self.last, x, everyone))

    def _stage(self, stage: int, x: Tensor, keeps: Sequence[DropoutMasks | None]) -> list[Tensor]:
        return [runner.stage(stage, x, keep) for runner, keep in zip(self.runners, keeps, strict=True)]

    def _dropout(self, step: int) -> list[DropoutMasks | None]:
        c = self.config
        return [
            dropout_masks(c.network, tower.name, c.run.seed, step, self.positions(), self.topology.device)
            for tower in self.towers
        ]


def compile_loops(config: Config, dtype: torch.dtype, travel: torch.dtype | None) -> None:
    """Warm the Numba cache on the disk with one small step: an image through a small tower's first stage,
    both ways, and an update."""
    network = replace(config.network, filters=(kernels.CHANNEL_MULTIPLE,) * 5, hidden=2)
    tower = build_tower(network, 1, "a", config.run.seed)
    stage = flatten(tower, dtype, travel)[0]
    y = tower.stage(0, torch.zeros(1, 3, 224, 224))
    y.backward(torch.zeros_like(y))
    dropout_masks(network, "a", 0, 0, torch.zeros(1, dtype=torch.int64), torch.device("cpu"))("fc6")
    stage.cast_grads_for_reduce()
    sgd_step_(stage, config.optim, lr=0.0)


def mean_gradient(logits_BK: Tensor, labels_B: Tensor, global_batch: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over these samples, and the logits' gradient of its mean over the global batch.

    logits_BK: float32; labels_B: int64. Returns a scalar and [B, K].
    """
    logp_BK = logits_BK.log_softmax(1)
    rows = torch.arange(len(labels_B), device=labels_B.device)
    grad_BK = logp_BK.exp()
    grad_BK[rows, labels_B] -= 1
    return -logp_BK[rows, labels_B].sum(), grad_BK / global_batch


def resolve_precision(wish: str, device: torch.device) -> str:
    """`auto` is bfloat16 where the processor multiplies it natively, float32 elsewhere."""
    if wish != "auto":
        return wish
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Without bfloat16 instructions (AVX-512 BF16, AMX) a CPU emulates the products, slowly.
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
