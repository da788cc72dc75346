"""What several proofs share."""

import torch

from trainer.training.optimizer import flatten
from trainer.training.step import Trainer


def in_float64(trainer: Trainer) -> Trainer:
    """The same trainer with parameters, activations, gradients and momenta in float64, where equal means
    1e-12 and a wrong term cannot pass for rounding."""
    trainer.network.dtype = torch.float64
    trainer.flat = [flatten(tower, torch.float64) for tower in trainer.towers]
    return trainer
