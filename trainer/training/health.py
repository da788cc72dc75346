"""Statistics of the layers while a network trains: zero units, size of activations and gradients.

With a learning rate that is too high, ReLU units become zero for all inputs within seconds. The loss then
stays at ln K, and the loss curve does not show why. So a run measures its layers every few steps and warns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.model.network import LAYERS, Tower
from trainer.parallel.transport import Transport
from trainer.training.optimizer import FlatStage

WATCHED = LAYERS[:-1]  # fc8 has no activation
DEAD = 0.9  # share of units of a layer that are zero for all images: hardly any signal passes it
AT_LN_K = 0.01  # relative distance to ln K within which the loss counts as stuck
STUCK_EPOCHS = 2.0


class Observation:
    """Statistics of one step of this rank's towers; a tower calls its `watch` after each activation."""

    def __init__(self, towers: list[Tower]) -> None:
        self._towers = towers
        self._active: list[dict[str, Tensor]] = [{} for _ in towers]
        self._squares: list[dict[str, Tensor]] = [{} for _ in towers]
        self._gradients: list[dict[str, Tensor]] = [{} for _ in towers]
        for tower, active, squares in zip(towers, self._active, self._squares, strict=True):
            tower.watch = lambda layer, x, active=active, squares=squares: see(layer, x, active, squares)

    def close(self) -> None:
        """Stop watching; what was measured stays."""
        for tower in self._towers:
            tower.watch = None

    def see_gradients(self, flat: list[list[FlatStage]]) -> None:
        """Measure the summed gradients, before the update clears them."""
        for stages, found in zip(flat, self._gradients, strict=True):
            for stage in stages:
                for layer in WATCHED:
                    if f"{layer}.weight" in stage.place:
                        found[layer] = mean_square(stage.gradient(f"{layer}.weight"))

    def summary(self, transport: Transport) -> dict[str, float]:
        """By layer, over all pairs and both towers.

        `dead.<layer>`: the share of units that are zero for every image of the global batch (ReLU only).
        `activation.<layer>`, `gradient.<layer>`: root mean squares.
        """
        shares = []
        for active, squares, gradients in zip(self._active, self._squares, self._gradients, strict=True):
            # A unit is dead if it is zero on all pairs.
            active_anywhere = transport.all_reduce_scalars(torch.cat([active[layer] for layer in WATCHED]))
            dead = [
                (part == 0).double().mean()
                for part in active_anywhere.split([len(active[w]) for w in WATCHED])
            ]
            pairs = transport.all_reduce_scalars(torch.ones(1))
            scales = transport.all_reduce_scalars(torch.stack([squares[w] for w in WATCHED])) / pairs
            g = torch.stack([gradients[w] for w in WATCHED])
            share = torch.stack([torch.stack(dead), scales, g.cpu()])
            shares.append(share.float().to(g.device))  # NCCL takes no tensors of the CPU
        both = (transport.pair_all_reduce(shares) / transport.towers).tolist()
        found: dict[str, float] = {}
        for kind, values in zip(("dead", "activation", "gradient"), both, strict=True):
            for layer, value in zip(WATCHED, values, strict=True):
                found[f"{kind}.{layer}"] = value if kind == "dead" else math.sqrt(value)
        return found


def see(layer: str, x: Tensor, active: dict[str, Tensor], squares: dict[str, Tensor]) -> None:
    """Record which units of a layer are active for any image, [C] or [F] of 0 and 1, and the mean square."""
    over = (0, 2, 3) if x.dim() == 4 else (0,)
    active[layer] = (x.amax(over) > 0).double()
    squares[layer] = mean_square(x)


def mean_square(x: Tensor) -> Tensor:
    """The mean of the squares, a scalar, float64."""
    return torch.linalg.vector_norm(x, dtype=torch.float32).double() ** 2 / x.numel()


@dataclass
class HealthMonitor:
    """Warns once when a network stops learning."""

    classes: int
    activation: str
    _dead_before: bool = False
    _stuck_since: float | None = None
    _warned: bool = False

    def diagnose(self, seen: dict[str, float], loss: float, epoch: float, lr: float) -> str | None:
        """A sentence with the remedy when the network stops learning, else None.

        seen: as `Observation.summary` gives it; loss: mean since the last call; lr: the learning rate now.
        """
        ln_k = math.log(self.classes)
        stuck = self.classes > 1 and abs(loss - ln_k) < AT_LN_K * ln_k
        self._stuck_since = (epoch if self._stuck_since is None else self._stuck_since) if stuck else None
        layer, share = max(((w, seen[f"dead.{w}"]) for w in WATCHED), key=lambda item: item[1])
        dead = self.activation == "relu" and share >= DEAD
        dying, self._dead_before = dead and self._dead_before, dead  # twice, so not by chance
        if self._warned or not (dying or self._stuck_for(epoch)):
            return None
        self._warned = True
        flat = f"the loss stays at ln {self.classes} = {ln_k:.3f}"
        remedy = (
            f"start a new run with a lower rate (--lr {lr / 10:.2g}), a longer warm-up (--warmup-epochs 2), "
            "or --recipe auto."
        )
        if dying:
            also = f" and {flat}" if stuck else ""
            return (
                f"The network is dying: {100 * share:.0f} % of {layer}'s units are zero for all images of "
                f"a batch{also}. Such units do not recover: {remedy}"
            )
        return f"The network is not learning: {flat} for {STUCK_EPOCHS:g} epochs. If that continues, {remedy}"

    def _stuck_for(self, epoch: float) -> bool:
        return self._stuck_since is not None and epoch - self._stuck_since >= STUCK_EPOCHS
