"""Random numbers that depend on what is drawn, never on who draws it.

Each draw is a function of (seed, purpose, epoch or step, position of the sample, unit), so that one process
or eight ranks train the same network and a resumed run repeats nothing and skips nothing.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """Keeps streams of one seed apart. The numbers are part of a run's identity: add, never renumber."""

    WEIGHTS = 1
    ORDER = 2
    AUGMENTATION = 3
    DROPOUT = 4


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """A NumPy generator for one place, for example (epoch,) or (tower, layer)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, purpose, *place))))


_LOW32 = 0xFFFFFFFF


def _mix(h: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int64 values in 0..2^32-1: each input bit changes half of the output.

    A product of two 32-bit numbers wraps at 64 bits; its low half, all that is kept, is right regardless.
    """
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & _LOW32
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & _LOW32
    return h ^ (h >> 16)


def uniform(seed: int, purpose: Purpose, place: tuple[int, ...], rows_B: Tensor, columns_F: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float32 [B, F], one for each (row, column), on the device of `rows_B`.

    rows_B: int64 [B], positions in the global batch; columns_F: int64 [F], units of the whole layer. The
    key of `place` is mixed in twice, so that neighbouring steps share no pattern.
    """
    key0, key1 = (int(w) for w in np.random.SeedSequence((seed, purpose, *place)).generate_state(2))
    row_B = _mix((rows_B * 0x9E3779B1 + key0) & _LOW32)
    column_F = _mix((columns_F * 0x85EBCA77 + key1) & _LOW32)
    if rows_B.device.type == "cpu":
        out_BF = np.empty((len(row_B), len(column_F)), np.float32)
        _fill(row_B.numpy().astype(np.uint32), column_F.numpy().astype(np.uint32), out_BF)
        return torch.from_numpy(out_BF)
    bits_BF = _mix(column_F[None, :] ^ row_B[:, None])
    return (bits_BF >> 8).to(torch.float32) * 2.0**-24


@numba.njit(cache=True, nogil=True)
def _fill(row_B: Any, column_F: Any, out_BF: Any) -> None:
    """The last lines of `uniform` in one pass: their twenty passes took 2 % of a step."""
    for b in range(row_B.size):
        for f in range(column_F.size):
            h = row_B[b] ^ column_F[f]  # uint32; products would go on as uint64
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            h = (h ^ (h >> np.uint32(16))) >> np.uint32(8)
            out_BF[b, f] = np.float32(h) * np.float32(2.0**-24)
