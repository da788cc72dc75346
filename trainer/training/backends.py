"""Which backend each operation of a run takes: one line at its start."""

from __future__ import annotations

import numpy as np
import torch

from trainer import kernels
from trainer.training.step import Trainer


def describe(trainer: Trainer) -> str:
    """For this rank's network, device and dtypes; nothing is computed."""
    device, flat = trainer.topology.device, trainer.flat[0][0]
    one = torch.zeros(1, dtype=torch.int64, device=device)
    size = trainer.config.augment.crop_size
    image = torch.empty(1, size, size, 3, dtype=torch.uint8, device=device)
    rounded = None if flat.compute_weights is flat.master_weights else flat.compute_weights
    update = flat.master_weights, flat.momenta, flat.reduced_grads, rounded, 0.0, 0.0, 0.0
    others = [
        ("dropout", "uniform", (0, kernels.Purpose.DROPOUT, (0,), one, one)),
        ("update", "sgd_", update),
        ("input", "crop", (image, image, *np.zeros((5, 1)), 1.0, False, size, None)),
    ]
    return kernels.chosen([*trainer.towers[0].calls(), *others], trainer.config.hardware.compile)
