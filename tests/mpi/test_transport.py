"""The exchanges by every transport, against what the ranks were given."""

import pytest
import torch
from mpi4py import MPI

from trainer.parallel.mpi_transport import OverMpi
from trainer.parallel.topology import init_topology
from trainer.parallel.torch_transport import OverTorch
from trainer.parallel.transport import Transport

WORLD = MPI.COMM_WORLD

pytestmark = pytest.mark.mpi(min_size=2)


@pytest.fixture(params=["mpi", "mpi, staged as from a GPU", "torch"])
def transport(request: pytest.FixtureRequest) -> Transport:
    topology = init_topology("cpu")
    if request.param == "torch":
        return OverTorch(topology)
    over = OverMpi(topology)
    over._staged = "staged" in request.param
    return over


def maps(rank: int, channels: int, dtype: torch.dtype) -> torch.Tensor:
    """[2, C, 3, 3] in channels_last; what each rank draws, any other can draw again."""
    draw = torch.Generator().manual_seed(rank)
    x = torch.randn(2, channels, 3, 3, generator=draw).to(dtype)
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gather_puts_tower_a_first_and_its_adjoint_sums(transport, dtype):
    first = WORLD.rank // 2 * 2
    pair = [maps(first + i, 4, dtype) for i in range(2)]
    assert torch.equal(transport.pair_all_gather([pair[WORLD.rank % 2]]), torch.cat(pair, 1))

    grads = [maps(100 + first + i, 8, dtype) for i in range(2)]
    (mine,) = transport.pair_reduce_scatter(grads[WORLD.rank % 2])
    half = slice(0, 4) if WORLD.rank % 2 == 0 else slice(4, 8)
    assert torch.equal(mine, grads[0][:, half] + grads[1][:, half])


def test_shares_of_the_logits_add_up(transport):
    first = WORLD.rank // 2 * 2
    shares = [torch.full((3, 5), float(first + i)) for i in range(2)]
    assert torch.equal(
        transport.pair_all_reduce([shares[WORLD.rank % 2]]), torch.full((3, 5), 2.0 * first + 1)
    )


@pytest.mark.mpi(min_size=4)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_summed_over_the_ranks_of_one_tower(transport, dtype):
    # 1001 does not divide among the ranks; whole numbers below 256 are exact in bfloat16.
    flats = [torch.arange(1001).remainder(7 + stage).to(dtype) * (WORLD.rank + 1) for stage in range(3)]
    pending = [transport.all_reduce_async(flat) for flat in flats]
    for reduction in pending:
        reduction.result()
    factor = sum(rank + 1 for rank in range(WORLD.rank % 2, WORLD.size, 2))
    for stage, flat in enumerate(flats):
        expected = torch.arange(1001).remainder(7 + stage) * factor
        torch.testing.assert_close(flat.double(), expected.double(), rtol=2**-8, atol=0)


@pytest.mark.mpi(min_size=4)
def test_a_few_numbers_are_summed_in_float64_and_the_givers_stay(transport):
    given = torch.tensor([1.0, 2.0**40 + 1], dtype=torch.float64)
    found = transport.all_reduce_scalars(given)
    pairs = WORLD.size // 2
    assert found.tolist() == [pairs, pairs * (2.0**40 + 1)]
    assert given.tolist() == [1.0, 2.0**40 + 1]


@pytest.mark.mpi(min_size=4)
def test_bfloat16_gradients_are_summed_in_float32_and_rounded_once(transport):
    t = init_topology("cpu")
    # 1031 numbers, which no number of ranks here divides. Ones behind a 256 would vanish one by one.
    parts = [torch.full((1031,), 256.0 if pair == 0 else 1.0) for pair in range(t.pairs)]
    parts = [p + torch.arange(1031) % 7 for p in parts]
    mine = parts[t.pair].bfloat16()
    transport.all_reduce_async(mine).result()
    expected = torch.stack([p.bfloat16().float() for p in parts]).sum(0).bfloat16()
    assert torch.equal(mine, expected)
