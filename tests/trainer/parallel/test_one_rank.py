"""One process without an MPI library: its world of one rank, and when it is refused."""

import sys
from types import ModuleType

import pytest
from mpi4py import MPI

from trainer.parallel import launcher, mpi, one_rank


class NoLibrary(ModuleType):
    """mpi4py's wheel on a machine without an MPI library."""

    def __getattr__(self, name):
        raise RuntimeError("cannot load MPI library")


@pytest.fixture(params=[None, NoLibrary("mpi4py")], ids=["no mpi4py", "no MPI library"])
def without_mpi(request, monkeypatch):
    """mpi4py cannot be imported, and no launcher started this process."""
    monkeypatch.setitem(sys.modules, "mpi4py", request.param)
    for name in (*launcher.RANKS, *launcher.SIZES):
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_needs_no_mpi(without_mpi, monkeypatch):
    assert mpi.load() is one_rank
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")  # mpirun -n 1
    assert mpi.load() is one_rank


@pytest.mark.parametrize(
    "started",
    [
        {"PMI_RANK": "0", "PMI_SIZE": "2"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
        {"PMIX_RANK": "1"},
    ],
    ids=" ".join,
)
def test_several_ranks_never_train_alone_without_mpi(started, without_mpi, monkeypatch, capsys):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as leaving:
        mpi.load()
    assert leaving.value.code == 1
    text = capsys.readouterr().err
    assert text.count("2 ranks were started, but mpi4py finds no MPI library") == (launcher.rank() == 0)


def test_with_mpi_the_world_is_mpis():
    assert mpi.load() is MPI


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("bcast", (["a"],)),
        ("gather", ({"a": 1},)),
        ("allgather", (None,)),
        ("allreduce", (3.5, MPI.MAX)),
        ("allreduce", (False, MPI.LOR)),
        ("Barrier", ()),
    ],
)
def test_a_collective_of_one_rank_gives_what_mpis_gives(method, arguments):
    expected = getattr(MPI.COMM_SELF, method)(*arguments)
    assert getattr(one_rank.Comm(), method)(*arguments) == expected


def test_the_parts_of_one_rank_are_worlds_of_one_rank():
    whole = one_rank.COMM_WORLD
    for part in (whole.Dup(), whole.Split(1, 0), whole.Split_type(one_rank.COMM_TYPE_SHARED)):
        assert (part.rank, part.size) == (MPI.COMM_SELF.rank, MPI.COMM_SELF.size)
    assert whole.Ibarrier().Test()
