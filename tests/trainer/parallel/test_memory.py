"""What certainly does not fit into memory is refused before it begins."""

import dataclasses
import os

import pytest

from trainer.config import NetworkConfig
from trainer.errors import UserError
from trainer.parallel import memory
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER
from trainer.training.memory import least_bytes
from trainer.training.step import Trainer

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
CGROUPS = {
    "no limit": ("0::/\n", {"memory.max": "max"}, PHYSICAL),
    "version 2": ("0::/job/task\n", {"job/memory.max": "4096", "job/task/memory.max": "max"}, 4096),
    "version 1": (
        "9:name=systemd:/x\n4:memory:/job\n0::/\n",
        {"memory/job/memory.limit_in_bytes": "8192", "memory/memory.limit_in_bytes": "9223372036854771712"},
        8192,
    ),
    "a container that does not see its group": ("0::/elsewhere\n", {"memory.max": "512"}, 512),
    "no control groups": (None, {}, PHYSICAL),
}


@pytest.mark.parametrize("name", CGROUPS)
def test_memory_is_the_hosts_or_the_least_limit_of_its_groups(name, tmp_path, monkeypatch):
    groups, files, expected = CGROUPS[name]
    for path, text in files.items():
        (tmp_path / "fs" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / path).write_text(text + "\n")
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    assert memory.host_memory() == expected


def test_the_least_bytes_of_the_papers_network():
    """Section 3.5's 60,965,224 parameters, and fc8's 1000 biases once more: tower a has them."""
    one = least_bytes(PAPER.network, 1000, towers=2, images=0, crop=224)
    assert one == 12 * (60_965_224 + 1000)
    outputs = 2 * (55 * 55 * 48 + 27 * 27 * 128 + 13 * 13 * (192 + 192 + 128))
    assert least_bytes(PAPER.network, 1000, 2, 1, 224) - one == 2 * outputs + 4 * 3 * 224 * 224


@pytest.mark.parametrize(
    ("network", "batch"),
    [(NetworkConfig(), 1_000_000), (NetworkConfig(hidden=65536, filters=(48, 128, 192, 192, 1024)), 1)],
    ids=["batch", "network"],
)
def test_a_step_beyond_the_memory_is_refused_before_anything_is_made(network, batch, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 20 * 10**9)
    monkeypatch.setattr("trainer.training.step.build_tower", lambda *arguments: pytest.fail("it was made"))
    config = dataclasses.replace(PAPER, network=network)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, batch_size=batch))
    with pytest.raises(UserError, match=r"needs at least .*B of memory .* 20 GB: choose a smaller --batch"):
        Trainer(config, init_topology("cpu"), 1000)


def test_the_ranks_of_a_host_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 1000)
    topology = dataclasses.replace(init_topology("cpu"), hosts=("one", "one", "other", "one"))
    assert memory.rank_memory(topology) == 333
    memory.require_memory(topology, 333, "This", "choose less")
    with pytest.raises(
        UserError, match="This needs at least 334 B of memory on each rank, and rank 0 on one"
    ):
        memory.require_memory(topology, 334, "This", "choose less")
