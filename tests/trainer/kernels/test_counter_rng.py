"""Random numbers by place: the same from the compiled loop as from whole numbers of Python."""

import numpy as np
import torch

from trainer.kernels.counter_rng import Purpose, uniform


def mixed(h: int) -> int:
    """MurmurHash3's finaliser, from its published description."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def test_each_number_is_the_hash_of_its_place():
    rows, columns = [0, 1, 127, 2**40 + 3], [0, 1, 2047, 4095]
    said = uniform(7, Purpose.DROPOUT, (12, 5), torch.tensor(rows), torch.tensor(columns))
    assert said.dtype == torch.float32
    key0, key1 = (int(w) for w in np.random.SeedSequence((7, Purpose.DROPOUT, 12, 5)).generate_state(2))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            of_row = mixed((row * 0x9E3779B1 + key0) % 2**32)
            of_column = mixed((column * 0x85EBCA77 + key1) % 2**32)
            assert said[i, j].item() == (mixed(of_row ^ of_column) >> 8) / 2**24
