"""One step of training: Figure 2 of the paper as code.

    forward     stage by stage; between two stages both towers' outputs are gathered (parallel/network.py)
    loss        softmax cross-entropy, the mean over the global batch; no update if it is not finite
    backward    stage by stage, from the top; as soon as a stage's gradients exist their all-reduce begins,
                while the stages below still compute
    update      when a stage's sum has arrived

A rank holds one tower or, alone, both: every list here has one entry for each tower that it holds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainer import kernels
from trainer.config import Config
from trainer.errors import UserError
from trainer.model.dropout import dropout_masks
from trainer.model.initial_weights import build_tower
from trainer.model.network import DropoutMasks
from trainer.parallel.connect import connect
from trainer.parallel.device import kernels_left_out, make_deterministic, resolve_precision
from trainer.parallel.memory import require_memory
from trainer.parallel.network import Activations, ParallelNetwork
from trainer.parallel.topology import Topology, first_on_each_host
from trainer.parallel.transport import Pending
from trainer.training.compiled import CompiledTower, require_compiler
from trainer.training.health import Observation
from trainer.training.memory import least_bytes
from trainer.training.optimizer import FlatStage, flatten, named_tensors, sgd_step_


class DivergedError(UserError):
    """The loss is not finite any more; raised on all ranks."""


class Trainer:
    """This rank's towers, their gradients, momenta and exchanges: one training step at a time."""

    def __init__(self, config: Config, topology: Topology, classes: int) -> None:
        o = config.optim
        if o.batch_size is None:
            raise UserError("The batch size is not settled yet.")
        if o.batch_size % topology.pairs:
            raise UserError(
                f"A batch of {o.batch_size} does not divide among {topology.pairs} pairs of ranks: "
                f"--batch-size must be a multiple of {topology.pairs}."
            )
        share = o.batch_size // topology.pairs
        require_memory(
            topology,
            least_bytes(config.network, classes, len(topology.towers), share, config.augment.crop_size),
            f"A step (--batch-size {o.batch_size})",
            "choose a smaller --batch-size, --filters or --hidden, or start ranks on more hosts",
        )
        kernels.use(config.hardware.kernels)
        if config.hardware.deterministic:
            make_deterministic(topology.device)
        self.config = config
        self.topology = topology
        self.classes = classes
        self.batch_size = o.batch_size
        self.precision = resolve_precision(config.hardware.precision, topology.device)
        dtype: torch.dtype = getattr(torch, self.precision)
        self.left_out = kernels_left_out(topology.device, dtype)
        """A sentence for each kernel of the GPU that is not used."""
        self.transport = connect(topology, config.hardware.transport)
        self.towers = [
            build_tower(config.network, classes, name, config.run.seed).to(topology.device)
            for name in topology.towers
        ]
        travel = getattr(torch, config.hardware.gradient_dtype) if topology.pairs > 1 else None
        self.flat: list[list[FlatStage]] = [flatten(tower, dtype, travel) for tower in self.towers]
        self.network = ParallelNetwork(self.towers, classes, topology, self.transport, dtype)
        if config.hardware.compile:
            self._compile()

    @property
    def local_batch(self) -> int:
        """Samples of the global batch that this rank's pair takes."""
        return self.batch_size // self.topology.pairs

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """[local_batch, 3, H, W] of a step's images."""
        side = self.config.augment.crop_size
        return self.local_batch, 3, side, side

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """By tower, parameters in float32 and momenta by name: views, as a checkpoint holds them."""
        return {
            tower.name: named_tensors(stages) for tower, stages in zip(self.towers, self.flat, strict=True)
        }

    def after_loading(self) -> None:
        """Take over weights that were written into `tensors()`."""
        for stages in self.flat:
            for stage in stages:
                stage.refresh_compute_weights()

    def _compile(self) -> None:
        """Compile the stages before the first step. One rank of each tower begins, and fills the cache."""
        place = self.topology
        require_compiler(place.device)
        self.network.runners = compiled = [CompiledTower(tower, place.threads) for tower in self.towers]

        def warm_up() -> None:
            for tower, keep in zip(compiled, self._dropout(step=0), strict=True):
                assert keep is not None
                shape = self.input_shape
                tower.warm_up(torch.empty(shape, device=place.device), self.network.dtype, keep)

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

        images_BCHW: float32 [local_batch, 3, H, W]; labels_B: int64 [local_batch]. Raises DivergedError,
        before any parameter changes, when the loss is not finite.
        """
        mark = self.network.mark
        loss, pending = self._forward_backward(images_BCHW, labels_B, step)
        if observation:
            self._wait_for(pending)
            observation.see_gradients(self.flat)
        for stage in reversed(self.network.stages):
            for flat, reduction in zip(self.flat, pending[stage], strict=True):
                mark(f"the all-reduce of stage {stage + 1}", waiting=True)
                reduction.result()
                mark(f"the update of stage {stage + 1}")
                sgd_step_(flat[stage], self.config.optim, lr, frozen)
        return loss

    def gradients(self, images_BCHW: Tensor, labels_B: Tensor, step: int) -> float:
        """A step without its update: the summed gradients stay in the parameters' `.grad`."""
        loss, pending = self._forward_backward(images_BCHW, labels_B, step)
        self._wait_for(pending)
        return loss

    def _wait_for(self, pending: dict[int, list[Pending]]) -> None:
        self.network.mark("the all-reduce", waiting=True)
        for reductions in pending.values():
            for reduction in reductions:
                reduction.result()

    def _forward_backward(
        self, images_BCHW: Tensor, labels_B: Tensor, step: int
    ) -> tuple[float, dict[int, list[Pending]]]:
        """The mean loss over the global batch, and the gradients' reductions under way, by stage."""
        activations = self.network.forward(images_BCHW, self._dropout(step))
        loss, grad_BK = mean_gradient(activations.logits_BK, labels_B, self.batch_size)
        self.network.mark("the sum of the losses", waiting=True)
        mean_loss = self.transport.all_reduce_scalars(loss[None].double() / self.batch_size).item()
        if not math.isfinite(mean_loss):
            raise DivergedError(
                f"The loss at step {step} is {mean_loss}: training diverged, and the step was not taken."
            )
        return mean_loss, self._backward(activations, grad_BK)

    def _backward(self, activations: Activations, grad: Tensor) -> dict[int, list[Pending]]:
        """Gradients into the flat arrays, top stage first; returns the reductions under way, by stage."""
        inputs, outputs, mark = activations.inputs, activations.outputs, self.network.mark
        pending: dict[int, list[Pending]] = {}
        grads = [grad] * len(self.towers)  # the all-reduce's adjoint: both towers get the logits' gradient
        for stage in reversed(self.network.stages):
            mark(f"the backward pass of stage {stage + 1}")
            for output, output_grad in zip(outputs[stage], grads, strict=True):
                backward(output, output_grad)
            outputs[stage] = []  # free the stage's activations
            pending[stage] = [
                self.transport.all_reduce_async(flat[stage].cast_grads_for_reduce()) for flat in self.flat
            ]
            whole = inputs[stage].grad
            if stage > 0 and whole is not None:
                mark(f"the reduce-scatter before stage {stage + 1}", waiting=True)
                grads = self.transport.pair_reduce_scatter(whole)
        return pending

    def _dropout(self, step: int) -> list[DropoutMasks | None]:
        c = self.config
        return [
            dropout_masks(c.network, tower.name, c.run.seed, step, self.positions(), self.topology.device)
            for tower in self.towers
        ]


class _ScalarWithGradient(torch.autograd.Function):
    """A zero whose derivative with respect to y is the given gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, grad: Tensor) -> Tensor:
        ctx.grad = grad
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> tuple[Tensor, None]:
        return ctx.grad, None


def backward(y: Tensor, grad: Tensor) -> None:
    """`y.backward(grad)`. torch's own imports SymPy when a gradient is given: half a second a process."""
    _ScalarWithGradient.apply(y, grad).backward()


def mean_gradient(logits_BK: Tensor, labels_B: Tensor, global_batch: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over these samples, and the logits' gradient of its mean over the global batch.

    logits_BK: float32; labels_B: int64. Returns a scalar and [B, K].
    """
    logp_BK = logits_BK.log_softmax(1)
    rows = torch.arange(len(labels_B), device=labels_B.device)
    grad_BK = logp_BK.exp()
    grad_BK[rows, labels_B] -= 1
    return -logp_BK[rows, labels_B].sum(), grad_BK / global_batch
