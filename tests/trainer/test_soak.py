"""A short series of interruptions, one of each sort; `make soak` is the long one, with second jobs too."""

import pytest

from tests.trainer.soak import KINDS, soak

# Each sort once over the two worlds; a moment is the same code in any world.
OF_ONE = [kind for kind in KINDS if "set aside" in kind or "lock" in kind or "`" in kind]
OF_TWO = [
    "kill in a step",
    "kill while a checkpoint is written",
    "kill in validation",
    "kill after going back",
    "Ctrl-C on a terminal",
]


@pytest.mark.parametrize(("ranks", "kinds"), [(1, OF_ONE), (2, OF_TWO)])
def test_a_run_that_is_interrupted_ends_with_the_same_bytes_and_the_same_best(
    ranks, kinds, tiny_store, tmp_path
):
    soak(ranks, kinds, tiny_store, tmp_path, seed=1)
