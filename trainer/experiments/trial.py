"""One training of the four-layer network with one learning rate, which continues after a kill.

Momentum, batch size and the doubled learning rate of the biases are those of cuda-convnet, the program of
2012. Its weight decay is left out, for the paper uses no regularisation here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from preprocess.shared import json_files
from preprocess.shared.files import write_atomically
from trainer.experiments.arguments import Activation
from trainer.experiments.four_layer_net import FourLayerNet
from trainer.experiments.same_settings import cannot_continue, differences, require_same_settings

BATCH, MOMENTUM = 128, 0.9
PARTS = 4  # points of the curve per epoch

Curve = Sequence[tuple[float, float]]
"""(epochs, training error) after each quarter of an epoch."""


def epochs_to(curve: Curve, target: float) -> float | None:
    """Epochs until the training error reached `target`, linear between two points; None if it did not."""
    before, above = 0.0, 0.9  # an untrained network's error with ten classes
    for epoch, error in curve:
        if error <= target:
            return before + (epoch - before) * (above - target) / (above - error)
        before, above = epoch, error
    return None


class _Record(TypedDict):
    settings: dict[str, Any]
    curve: list[tuple[float, float]]


class Trial:
    """One network with one learning rate, saved in its own folder after each epoch.

    data: the number and the SHA-256 of the images, which the curve depends on; see `relu_tanh.data_settings`.
    Raises UserError when the folder's curve was made with other settings.
    """

    def __init__(
        self, folder: Path, activation: Activation, lr: float, seed: int, bfloat16: bool, data: dict[str, Any]
    ) -> None:
        self.folder, self.activation, self.lr = folder, activation, lr
        self.seed, self.bfloat16 = seed, bfloat16
        self.settings = {  # curve.json has these names
            "the activation": activation,
            "the rate": lr,
            "--seed": seed,
            "--precision": "bfloat16" if bfloat16 else "float32",
            **data,
        }
        self.net = FourLayerNet(activation, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = [p for name, p in self.net.named_parameters() if name.endswith("weight")]
        biases = [p for name, p in self.net.named_parameters() if name.endswith("bias")]
        groups = [{"params": weights, "lr": lr}, {"params": biases, "lr": 2 * lr}]
        self.sgd = torch.optim.SGD(groups, momentum=MOMENTUM)
        self.curve: list[tuple[float, float]] = []
        """(epochs, training error) after each quarter of an epoch."""
        if (folder / "curve.json").exists():
            self._load()

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.curve) // PARTS

    @property
    def error(self) -> float:
        """The latest training error; 1 before the first."""
        return self.curve[-1][1] if self.curve else 1.0

    def error_after(self, epochs: int) -> float:
        """The training error at the end of an epoch, or the latest if that epoch is not trained yet."""
        return self.curve[min(epochs * PARTS, len(self.curve)) - 1][1]

    def epochs_to(self, target: float) -> float | None:
        """Epochs until the training error reached `target`; None if it did not."""
        return epochs_to(self.curve, target)

    def train_epoch(self, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> None:
        """Train one epoch and save; the error is counted during training, as cuda-convnet counts it."""
        mean = torch.from_numpy(images_NHWC.mean(0, dtype=np.float64).astype(np.float32))
        order = np.random.default_rng((self.seed, self.epochs)).permutation(len(images_NHWC))
        epoch = self.epochs
        for part, indices in enumerate(np.array_split(order, PARTS), 1):
            wrong = 0
            for begin in range(0, len(indices), BATCH):
                chosen = indices[begin : begin + BATCH]
                x_BCHW = (torch.from_numpy(images_NHWC[chosen]) - mean).permute(0, 3, 1, 2)
                wrong += self._step(x_BCHW, torch.from_numpy(labels_N[chosen]))
            self.curve.append((epoch + part / PARTS, wrong / len(indices)))
        self._save()

    def _step(self, x_BCHW: Tensor, labels_B: Tensor) -> int:
        """Train on one batch; returns the number of wrong predictions."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            logits_BK = self.net(x_BCHW).float()
        loss = F.cross_entropy(logits_BK, labels_B)
        if not math.isfinite(loss.item()):
            return len(labels_B)  # the learning rate is too high: all later predictions count as wrong
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        return int((logits_BK.argmax(1) != labels_B).sum())

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, and momenta under momentum.<name>."""
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
        """Continue from the folder. Raises UserError when it is damaged or has other settings."""
        try:
            record = json_files.read(self.folder / "curve.json", _Record, "its curve.json")
        except json_files.JsonError as error:
            raise cannot_continue(self.folder, error) from None
        require_same_settings(self.folder, differences(record["settings"], self.settings))
        self.curve = record["curve"]
        try:
            tensors = safetensors.torch.load_file(self._weights(self.epochs))
        except (safetensors.SafetensorError, OSError) as error:
            raise cannot_continue(self.folder, error) from None
        self.net.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("momentum.")})
        for name, p in self.net.named_parameters():
            self.sgd.state[p]["momentum_buffer"] = tensors[f"momentum.{name}"].clone()

    def _weights(self, epochs: int) -> Path:
        return self.folder / f"epoch-{epochs:03d}.safetensors"
