"""Who is who in a world of 2, 4 or 8 ranks."""

import pytest
from mpi4py import MPI

from trainer.errors import UserError
from trainer.model.network import TOWERS
from trainer.parallel.agreement import max_over_ranks
from trainer.parallel.topology import init_topology

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)


def test_ranks_are_paired_by_number():
    t = init_topology("cpu")
    assert (t.pair, t.towers) == (WORLD.rank // 2, (TOWERS[WORLD.rank % 2],))
    assert t.pairs == WORLD.size // 2
    assert t.pair_comm.allgather(t.towers[0]) == ["a", "b"]
    assert t.tower_comm.allgather(t.pair) == list(range(t.pairs))


def test_one_rank_that_must_stop_stops_all():
    t = init_topology("cpu")
    assert max_over_ranks(t, 10 if WORLD.rank == WORLD.size - 1 else 0) == 10
    assert max_over_ranks(t, 0) == 0


@pytest.mark.mpi(min_size=4)
def test_an_odd_number_of_ranks_is_refused_by_all():
    three = WORLD.Split(WORLD.rank < 3)
    if WORLD.rank < 3:
        with pytest.raises(UserError, match="3 ranks cannot be paired"):
            init_topology("cpu", three)
    three.Free()
