"""Who is who in a world of 2, 4 or 8 ranks."""

import os
from pathlib import Path

import pytest
import torch
from mpi4py import MPI

from trainer.data import open_data
from trainer.evaluate import CENTER, TEN, evaluate
from trainer.model import TOWERS
from trainer.step import Trainer
from trainer.topology import agree, arrange
from trainer.transport import OverMpi

from .test_parity import SMALL, configuration

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)


def test_ranks_are_paired_by_number():
    t = arrange("cpu")
    assert (t.pair, t.towers) == (WORLD.rank // 2, (TOWERS[WORLD.rank % 2],))
    assert t.pairs == WORLD.size // 2
    assert t.pair_comm.allgather(t.towers[0]) == ["a", "b"]
    assert t.tower_comm.allgather(t.pair) == list(range(t.pairs))


def test_gather_joins_the_towers_in_order_and_its_adjoint_sums_them():
    t = arrange("cpu")
    transport = OverMpi(t)
    # A wrong order, a missing sum or a swap between pairs each changes one of these numbers.
    mine = torch.full((2, 3, 4, 4), float(WORLD.rank)).to(memory_format=torch.channels_last)
    whole = transport.gather([mine])
    a, b = 2.0 * t.pair, 2.0 * t.pair + 1
    assert whole[:, :3].eq(a).all()
    assert whole[:, 3:].eq(b).all()

    grad = torch.arange(6.0)[None, :, None, None].expand(2, 6, 4, 4) * (WORLD.rank + 1)
    (half,) = transport.gather_adjoint(grad.contiguous(memory_format=torch.channels_last))
    own = torch.arange(3.0) if t.towers == ("a",) else torch.arange(3.0, 6.0)
    expected = own * (2 * t.pair + 1) + own * (2 * t.pair + 2)
    assert torch.equal(half[0, :, 0, 0], expected)


def test_sum_adds_the_towers_and_reduce_adds_the_pairs():
    t = arrange("cpu")
    transport = OverMpi(t)
    total = transport.sum([torch.full((2, 5), float(WORLD.rank))])
    assert total.eq(4.0 * t.pair + 1).all()
    flat = torch.full((7,), float(WORLD.rank))
    transport.start_reduce(flat).result()
    assert flat.eq(sum(range(WORLD.rank % 2, WORLD.size, 2))).all()


def test_one_rank_that_must_stop_stops_all():
    t = arrange("cpu")
    assert agree(t, 10 if WORLD.rank == WORLD.size - 1 else 0) == 10
    assert agree(t, 0) == 0


def test_evaluation_counts_each_picture_once_in_any_world():
    store = open_data(Path(os.environ["TINY_STORE"]))
    counts = evaluate(Trainer(configuration(SMALL, 8), arrange("cpu"), 10), store, True, batch=4)
    assert counts[CENTER].images == counts[TEN].images == len(store.val) == 30
    if WORLD.rank == 0:
        alone = Trainer(configuration(SMALL, 8), arrange("cpu", MPI.COMM_SELF), 10)
        assert evaluate(alone, store, True, batch=9) == counts
