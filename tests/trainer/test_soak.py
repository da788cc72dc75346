"""A short series of kills; `make soak` is the long one."""

import pytest

from tests.trainer.soak import soak


@pytest.mark.timeout(600)
def test_a_run_killed_three_times_ends_bit_for_bit_as_one_left_alone(tiny_store, tmp_path):
    soak(ranks=2, kills=3, store=tiny_store, folder=tmp_path, seed=1)
