"""Is the network alive? What its units say and how large its gradients are, layer by layer.

A rate that is too high silences ReLU units for good within seconds, the loss stays at ln K, and nothing in a
loss curve says why. So every few steps a run looks at its own layers, and says so in one sentence.
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
SILENT = 0.9  # a layer with so large a share of silent units passes next to nothing on
AT_LN_K = 0.01  # how near to ln K, relative to it, a loss is called stuck
STUCK_EPOCHS = 2.0


class Observation:
    """One step's look at the towers of this rank; a tower calls `see` after each activation."""

    def __init__(self, towers: list[Tower]) -> None:
        self._towers = towers
        self._spoke: list[dict[str, Tensor]] = [{} for _ in towers]
        self._squares: list[dict[str, Tensor]] = [{} for _ in towers]
        self._gradients: list[dict[str, Tensor]] = [{} for _ in towers]
        for tower, spoke, squares in zip(towers, self._spoke, self._squares, strict=True):
            tower.watch = lambda layer, x, spoke=spoke, squares=squares: see(layer, x, spoke, squares)

    def close(self) -> None:
        """Look away; keep what was seen."""
        for tower in self._towers:
            tower.watch = None

    def see_gradients(self, flat: list[list[FlatStage]]) -> None:
        """Take the scale of the summed gradients, before the update clears them."""
        for stages, found in zip(flat, self._gradients, strict=True):
            for stage in stages:
                for layer in WATCHED:
                    if f"{layer}.weight" in stage.place:
                        found[layer] = mean_square(stage.gradient(f"{layer}.weight"))

    def summary(self, transport: Transport) -> dict[str, float]:
        """Over all pairs and both towers, by layer: `dead.`, the share of units that no picture of the
        global batch excites (ReLU alone); `activation.` and `gradient.`, root mean squares."""
        shares = []
        for spoke, squares, gradients in zip(self._spoke, self._squares, self._gradients, strict=True):
            # Over the pairs: a unit is silent if it spoke for none of them.
            excited = transport.all_reduce_scalars(torch.cat([spoke[layer] for layer in WATCHED]))
            dead = [(part == 0).double().mean() for part in excited.split([len(spoke[w]) for w in WATCHED])]
            pairs = transport.all_reduce_scalars(torch.ones(1))
            scales = transport.all_reduce_scalars(torch.stack([squares[w] for w in WATCHED])) / pairs
            shares.append(
                torch.stack([torch.stack(dead), scales, torch.stack([gradients[w] for w in WATCHED]).cpu()])
            )
        both = (transport.pair_all_reduce([s.float() for s in shares]) / transport.towers).tolist()
        found: dict[str, float] = {}
        for kind, values in zip(("dead", "activation", "gradient"), both, strict=True):
            for layer, value in zip(WATCHED, values, strict=True):
                found[f"{kind}.{layer}"] = value if kind == "dead" else math.sqrt(value)
        return found


def see(layer: str, x: Tensor, spoke: dict[str, Tensor], squares: dict[str, Tensor]) -> None:
    """Note which units of one tower speak, [C] or [F] of 0 and 1, and the mean square of all of them."""
    over = (0, 2, 3) if x.dim() == 4 else (0,)
    spoke[layer] = (x.amax(over) > 0).double()
    squares[layer] = mean_square(x)


def mean_square(x: Tensor) -> Tensor:
    """A scalar, float64."""
    return torch.linalg.vector_norm(x, dtype=torch.float32).double() ** 2 / x.numel()


@dataclass
class HealthMonitor:
    """What to say about a run, each thing once."""

    classes: int
    activation: str
    _silent_before: bool = False
    _stuck_since: float | None = None
    _said: bool = False

    def diagnose(self, seen: dict[str, float], loss: float, epoch: float, lr: float) -> str | None:
        """One sentence with the remedy when the network is dying, else None.

        loss: mean since the last look; epoch: where the run is; lr: the rate now.
        """
        ln_k = math.log(self.classes)
        stuck = self.classes > 1 and abs(loss - ln_k) < AT_LN_K * ln_k
        self._stuck_since = (epoch if self._stuck_since is None else self._stuck_since) if stuck else None
        layer, share = max(((w, seen[f"dead.{w}"]) for w in WATCHED), key=lambda item: item[1])
        silent = self.activation == "relu" and share >= SILENT
        dying, self._silent_before = silent and self._silent_before, silent  # twice, so not by chance
        if self._said or not (dying or self._stuck_for(epoch)):
            return None
        self._said = True
        flat = f"the loss stays at ln {self.classes} = {ln_k:.3f}"
        remedy = (
            f"start a new run with a lower rate (--lr {lr / 10:.2g}), a longer warm-up (--warmup-epochs 2), "
            "or --recipe auto."
        )
        if dying:
            also = f" and {flat}" if stuck else ""
            return (
                f"The network is dying: {100 * share:.0f} % of {layer}'s units answer to no picture of a "
                f"batch{also}. Silent units do not come back: {remedy}"
            )
        return f"Nothing is being learnt: {flat} for {STUCK_EPOCHS:g} epochs. If that goes on, {remedy}"

    def _stuck_for(self, epoch: float) -> bool:
        return self._stuck_since is not None and epoch - self._stuck_since >= STUCK_EPOCHS
