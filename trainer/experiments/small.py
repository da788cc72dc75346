"""The four-layer network of the paper's Figure 1, and one training of it to a given training error.

The paper names four layers and CIFAR-10, no more. The 2012 program ships with one such network for CIFAR-10
(its example layers): three convolutions of 32, 32 and 64 filters of 5x5, each with a 3x3 pooling two pixels
apart, the first by the maximum, the others by the mean, and a fully connected layer of ten. Weights,
momentum, batch and the doubled rate of the biases are that program's too; its normalisations and its decay
are left out, for the paper uses no regularisation here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from preprocess.shared.files import write_atomically
from trainer.experiments.earlier import differences, refuse_other_settings, unreadable

Activation = Literal["relu", "tanh"]
BATCH, MOMENTUM = 128, 0.9
INIT_STD = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01}
PARTS = 4  # points of the curve an epoch


class SmallNet(nn.Module):
    """Pixels less their mean, float32 [B, 3, 32, 32], about -120..120 -> logits [B, 10]."""

    def __init__(self, activation: Activation, seed: int) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = torch.relu if activation == "relu" else torch.tanh
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc10 = nn.Linear(64 * 4 * 4, 10)
        draw = torch.Generator().manual_seed(seed)
        for name, std in INIT_STD.items():
            layer = getattr(self, name)
            nn.init.normal_(layer.weight, std=std, generator=draw)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # ceil_mode: 32 -> 16 -> 8 -> 4, as the program's windows reach over the edge.
        x = self.activation(F.max_pool2d(self.conv1(x_BCHW), 3, 2, ceil_mode=True))
        x = F.avg_pool2d(self.activation(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.avg_pool2d(self.activation(self.conv3(x)), 3, 2, ceil_mode=True)
        return self.fc10(x.flatten(1))


Curve = Sequence[tuple[float, float]]
"""(epochs, training error) of each quarter of an epoch."""


def reached(curve: Curve, target: float) -> float | None:
    """Epochs until the training error was `target`, between two points in a straight line."""
    before, above = 0.0, 0.9  # chance
    for epoch, error in curve:
        if error <= target:
            return before + (epoch - before) * (above - target) / (above - error)
        before, above = epoch, error
    return None


class Racer:
    """One network at one rate, in a folder of its own, from which it goes on after a kill.

    data: what the curve depends on besides, by the names that a user knows it by: see `relu_tanh.settings`.
    Raises UserError where the folder's curve was made with other settings.
    """

    def __init__(
        self, folder: Path, activation: Activation, rate: float, seed: int, low: bool, data: dict[str, Any]
    ) -> None:
        self.folder, self.activation, self.rate, self.seed, self.low = folder, activation, rate, seed, low
        self.settings = {
            "the activation": activation,
            "the rate": rate,
            "--seed": seed,
            "--precision": "bfloat16" if low else "float32",
            **data,
        }
        self.net = SmallNet(activation, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = [p for name, p in self.net.named_parameters() if name.endswith("weight")]
        biases = [p for name, p in self.net.named_parameters() if name.endswith("bias")]
        groups = [{"params": weights, "lr": rate}, {"params": biases, "lr": 2 * rate}]
        self.sgd = torch.optim.SGD(groups, momentum=MOMENTUM)
        self.curve: list[tuple[float, float]] = []
        """(epochs, training error) of each quarter of an epoch."""
        if (folder / "curve.json").exists():
            self._load()

    @property
    def epochs(self) -> int:
        return len(self.curve) // PARTS

    @property
    def error(self) -> float:
        """The latest training error; 1 before the first."""
        return self.curve[-1][1] if self.curve else 1.0

    def error_after(self, epochs: int) -> float:
        """The training error at the end of an epoch, or the latest if it is not there yet."""
        return self.curve[min(epochs * PARTS, len(self.curve)) - 1][1]

    def reached(self, target: float) -> float | None:
        """Epochs until the training error was `target`."""
        return reached(self.curve, target)

    def train_epoch(self, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> None:
        """One pass; the error is counted while training, as the program's own training error is."""
        mean = torch.from_numpy(images_NHWC.mean(0, dtype=np.float64).astype(np.float32))
        order = np.random.default_rng((self.seed, self.epochs)).permutation(len(images_NHWC))
        epoch = self.epochs
        for part, places in enumerate(np.array_split(order, PARTS), 1):
            wrong = 0
            for begin in range(0, len(places), BATCH):
                chosen = places[begin : begin + BATCH]
                x_BCHW = (torch.from_numpy(images_NHWC[chosen]) - mean).permute(0, 3, 1, 2)
                wrong += self._step(x_BCHW, torch.from_numpy(labels_N[chosen]))
            self.curve.append((epoch + part / PARTS, wrong / len(places)))
        self._save()

    def _step(self, x_BCHW: Tensor, labels_B: Tensor) -> int:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
            logits_BK = self.net(x_BCHW).float()
        loss = F.cross_entropy(logits_BK, labels_B)
        if not math.isfinite(loss.item()):
            return len(labels_B)  # this rate is too high; what follows is all wrong, and loses
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        return int((logits_BK.argmax(1) != labels_B).sum())

    def _tensors(self) -> dict[str, Tensor]:
        momenta = {
            f"momentum.{name}": self.sgd.state[p].get("momentum_buffer", torch.zeros_like(p)).contiguous()
            for name, p in self.net.named_parameters()
        }
        return {name: t.contiguous() for name, t in self.net.state_dict().items()} | momenta

    def _save(self) -> None:
        # The curve is written last: a kill between the two repeats one epoch from the weights before it.
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._weights(self.epochs), safetensors.torch.save(self._tensors()))
        record = {"settings": self.settings, "curve": self.curve}
        write_atomically(self.folder / "curve.json", json.dumps(record).encode())
        self._weights(self.epochs - 1).unlink(missing_ok=True)

    def _load(self) -> None:
        try:
            record = json.loads((self.folder / "curve.json").read_text())
            found, curve = record["settings"], [(epoch, error) for epoch, error in record["curve"]]
        except (ValueError, KeyError, TypeError):
            raise unreadable(self.folder, "its curve.json does not say what it was made with") from None
        refuse_other_settings(self.folder, differences(found, self.settings))
        self.curve = curve
        try:
            tensors = safetensors.torch.load_file(self._weights(self.epochs))
        except (safetensors.SafetensorError, OSError) as error:
            raise unreadable(self.folder, error) from None
        self.net.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("momentum.")})
        for name, p in self.net.named_parameters():
            self.sgd.state[p]["momentum_buffer"] = tensors[f"momentum.{name}"].clone()

    def _weights(self, epochs: int) -> Path:
        return self.folder / f"epoch-{epochs:03d}.safetensors"
