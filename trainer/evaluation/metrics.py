"""Exact error counts: whole numbers, by class and in all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Counts:
    """Whole numbers, so that any split of a set over ranks adds up to the same errors."""

    images: int
    top1_wrong: int
    top5_wrong: int

    def to_dict(self) -> dict[str, float]:
        """Errors as fractions, and the whole numbers that they follow from."""
        return {"top1_error": self.top1_error, "top5_error": self.top5_error, **dataclasses.asdict(self)}

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> Counts:
        """The inverse of `to_dict`."""
        return Counts(found["images"], found["top1_wrong"], found["top5_wrong"])

    @property
    def top1_error(self) -> float:
        """Fraction of images whose class is not the first guess."""
        return self.top1_wrong / self.images

    @property
    def top5_error(self) -> float:
        """Fraction of images whose class is not among the first five guesses."""
        return self.top5_wrong / self.images


class Tally:
    """Counts class by class, and the confusion matrix: int64, K classes.

    Memory is K x K x 8 bytes, 8 MB for ImageNet.
    """

    def __init__(self, classes: int) -> None:
        self.images_K = np.zeros(classes, np.int64)
        self.top1_wrong_K = np.zeros(classes, np.int64)
        self.top5_wrong_K = np.zeros(classes, np.int64)
        self.confusion_KK = np.zeros((classes, classes), np.int64)
        """Row: an image's class. Column: its first guess; an image whose scores are all NaN is left out."""

    def add(self, scores_BK: Tensor, labels_B: Tensor) -> Tally:
        """Count B more images; scores float [B, K], higher is likelier, labels int64 [B]. Returns itself.

        Equal scores rank by class index, so that a constant network guesses class 0 for every image.
        """
        own_B1 = scores_BK.gather(1, labels_B[:, None])
        classes_K = torch.arange(scores_BK.shape[1], device=scores_BK.device)
        ahead_BK = (scores_BK > own_B1) | ((scores_BK == own_B1) & (classes_K < labels_B[:, None]))
        # NaN is neither above nor below another score; it counts as wrong.
        none_BK = scores_BK.isnan()
        rank_B = torch.where(own_B1[:, 0].isnan(), scores_BK.shape[1], ahead_BK.sum(1)).cpu().numpy()
        guess_B = scores_BK.masked_fill(none_BK, -math.inf).argmax(1).cpu().numpy()
        guessed_B = ~none_BK.all(1).cpu().numpy()
        labels = labels_B.cpu().numpy()
        np.add.at(self.images_K, labels, 1)
        np.add.at(self.top1_wrong_K, labels[rank_B >= 1], 1)
        np.add.at(self.top5_wrong_K, labels[rank_B >= 5], 1)
        np.add.at(self.confusion_KK, (labels[guessed_B], guess_B[guessed_B]), 1)
        return self

    def summed(self, total: Callable[[Tensor], Tensor]) -> Tally:
        """The sum over ranks. `total` sums one float64 vector over them: exact for integers below 2^53."""
        mine = (self.images_K, self.top1_wrong_K, self.top5_wrong_K, self.confusion_KK)
        everyone = total(torch.from_numpy(np.concatenate([part.ravel() for part in mine])).double())
        K, numbers = len(self.images_K), everyone.numpy().astype(np.int64)
        found = Tally(K)
        found.images_K, found.top1_wrong_K, found.top5_wrong_K = numbers[: 3 * K].reshape(3, K)
        found.confusion_KK = numbers[3 * K :].reshape(K, K)
        return found

    @property
    def counts(self) -> Counts:
        """Over all classes."""
        return Counts(*(int(part.sum()) for part in (self.images_K, self.top1_wrong_K, self.top5_wrong_K)))
