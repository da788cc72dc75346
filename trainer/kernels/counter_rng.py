"""Random numbers that depend on what is drawn, never on the rank that draws it.

Each draw is a function of (seed, purpose, epoch or step, position of the sample, unit), so that one process
or eight ranks train the same network and a resumed run repeats nothing and skips nothing.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preprocess.shared.cached_njit import cached_njit


class Purpose(IntEnum):
    """Keeps streams of one seed apart. The numbers are part of a run's identity: add, never renumber."""

    WEIGHTS = 1
    ORDER = 2
    AUGMENTATION = 3
    DROPOUT = 4


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """A NumPy generator for one place, for example (epoch,) or (tower, layer)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, *place))))


_LOW_32 = 0xFFFFFFFF


def hash_32(h: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int64 values in 0..2^32-1: each input bit changes half of the output.

    A product of two 32-bit numbers wraps at 64 bits; its low half, all that is kept, is right regardless.
    """
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & _LOW_32
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & _LOW_32
    return h ^ (h >> 16)


def hashed_coordinates(
    seed: int, purpose: Purpose, place: tuple[int, ...], positions_B: Tensor, units_F: Tensor
) -> tuple[Tensor, Tensor]:
    """Hashes of the positions [B] and of the units [F], int64 in 0..2^32-1, each with a key of the place.

    The key is mixed in twice, so that neighbouring steps share no pattern.
    """
    key0, key1 = (int(w) for w in np.random.SeedSequence((seed, purpose, *place)).generate_state(2))
    position_B = hash_32((positions_B * 0x9E3779B1 + key0) & _LOW_32)
    unit_F = hash_32((units_F * 0x85EBCA77 + key1) & _LOW_32)
    return position_B, unit_F


def fits(seed: int, purpose: Purpose, place: tuple[int, ...], positions_B: Tensor, units_F: Tensor) -> bool:
    """Whether the Numba loop takes such arguments."""
    return positions_B.device.type == "cpu"


def uniform(
    seed: int, purpose: Purpose, place: tuple[int, ...], positions_B: Tensor, units_F: Tensor
) -> Tensor:
    """Draw in one pass over the result; the twenty passes of the reference took 2 % of a training step."""
    position_B, unit_F = hashed_coordinates(seed, purpose, place, positions_B, units_F)
    out_BF = np.empty((len(position_B), len(unit_F)), np.float32)
    _fill(position_B.numpy().astype(np.uint32), unit_F.numpy().astype(np.uint32), out_BF)
    return torch.from_numpy(out_BF)


@cached_njit(nogil=True)
def _fill(position_B: Any, unit_F: Any, out_BF: Any) -> None:
    for b in range(position_B.size):
        for f in range(unit_F.size):
            h = position_B[b] ^ unit_F[f]  # uint32; without the casts the products would be uint64
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            h = (h ^ (h >> np.uint32(16))) >> np.uint32(8)
            out_BF[b, f] = np.float32(h) * np.float32(2.0**-24)
