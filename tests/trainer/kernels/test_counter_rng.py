"""Random numbers by place, compared with the same hash in Python's integers."""

import numpy as np
import torch

from trainer.kernels import Purpose, uniform


def mixed(h: int) -> int:
    """MurmurHash3's finaliser, from its published description."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def test_each_number_is_the_hash_of_its_place():
    positions, units = [0, 1, 127, 2**40 + 3], [0, 1, 2047, 4095]
    found = uniform(7, Purpose.DROPOUT, (12, 5), torch.tensor(positions), torch.tensor(units))
    assert found.dtype == torch.float32
    key0, key1 = (int(w) for w in np.random.SeedSequence((7, Purpose.DROPOUT, 12, 5)).generate_state(2))
    for i, position in enumerate(positions):
        for j, unit in enumerate(units):
            of_position = mixed((position * 0x9E3779B1 + key0) % 2**32)
            of_unit = mixed((unit * 0x85EBCA77 + key1) % 2**32)
            assert found[i, j].item() == (mixed(of_position ^ of_unit) >> 8) / 2**24
