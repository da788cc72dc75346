"""Tests of the harness, which is arithmetic. No test measures a speed."""

import collections
import importlib
import json
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from preprocess.store import open_store
from tests.benchmarks import __main__ as command
from tests.benchmarks import units
from tests.benchmarks.fused import FusedGather
from tests.benchmarks.harness import Contender, Row, contenders, medians, rate, result
from tests.benchmarks.networks import one_tower, two_towers
from tests.benchmarks.originals import originals
from tests.benchmarks.settings import Settings, Stage
from tests.benchmarks.stages.lrn import forward_backward, lrn, theirs
from tests.benchmarks.workers.reduce import stage_sizes
from trainer.data.batches import TrainingBatches
from trainer.recipes import AUTO

KEYS = {"stage", "ours", "peer", "limit", "units", "unit", "of_peer", "of_limit", "of_units"}


def scripted(name, figures, log):
    """Make a contender that logs its turns and returns the given figures."""
    given = iter(figures)

    def measure():
        log.append(name)
        return next(given)

    return Contender(name, measure)


def test_ours_peer_and_limit_take_turns_and_the_median_of_each_counts():
    log, ticks = [], []
    row = Row(
        stage="s",
        unit="img/s",
        ours=scripted("ours", (30, 1, 20), log),
        peer=scripted("peer", (5, 4, 900), log),
        limit=scripted("limit", (40, 40, 0), log),
    )
    found = medians(contenders([row]), 3, lambda: ticks.append(0))
    assert log == ["ours", "peer", "limit"] * 3
    assert len(ticks) == 9
    entry = result(row, found)
    assert [entry[key] for key in ("ours", "peer", "limit", "unit")] == [20, 5, 40, "img/s"]
    assert (entry["of_peer"], entry["of_limit"]) == (4, 0.5)


def test_rows_that_share_a_contender_measure_it_once_a_turn():
    log = []
    ours, limit = (scripted(name, range(10), log) for name in ("ours", "limit"))
    rows = [
        Row(stage=name, unit="u", ours=ours, peer=scripted(name, range(10), log), limit=limit)
        for name in ("first", "second")
    ]
    medians(contenders(rows), 2)
    assert log == ["ours", "first", "limit", "second"] * 2


def test_what_is_missing_is_null_and_has_no_ratio():
    entry = result(row := Row(stage="s", unit="u", ours=Contender("", lambda: 2.0)), {row.ours: 2.0})
    assert [entry[key] for key in KEYS - {"stage", "unit", "ours"}] == [None] * 6


def test_a_turn_lasts_long_enough_and_its_first_call_ever_is_not_counted():
    now, durations = [0.0], iter([100, 1, 1, 1, 2, 2])

    def work():
        now[0] += next(durations)

    measure = rate(6, work, seconds=2.5, clock=lambda: now[0])
    assert (
        measure() == 6 * 3 / 3
    )  # three calls of 1 s until 2.5 s are over; the call of 100 s was the warm-up
    assert measure() == 6 * 2 / 4  # two calls of 2 s, no warm-up again


def test_the_peer_and_ours_normalise_alike_in_both_directions():
    x, grad = torch.randn(2, 2, 48, 7, 7)
    torch.testing.assert_close(lrn(x), theirs(x))
    ours, peer = (forward_backward(f, x, grad)() for f in (lrn, theirs))
    torch.testing.assert_close(ours, peer)


def test_the_loaders_limit_makes_the_trainers_batches(tiny_store, tmp_path):
    store, batch = open_store(tiny_store), 24
    ours = TrainingBatches(store, AUTO.augment, 3, batch, torch.arange(batch), 0, 0)
    fused = FusedGather(store, AUTO.augment, 3, batch, tmp_path / "raw")
    for step in range(2):  # 48 of 60 images: some flipped, some not
        expected = ours.make(step).images_BCHW.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(fused(step).reshape(expected.shape), expected, atol=1e-5)


def test_the_loaders_peer_reads_the_original_images(tiny_store):
    dataset = originals(tiny_store)
    assert dataset is not None
    assert len(dataset) == 60
    counts = collections.Counter(dataset[index][1] for index in range(60))
    assert set(counts.values()) == {6}  # the miniature has ten classes of equal size
    assert dataset[0][0].shape == (3, 224, 224)


def test_the_peers_are_the_networks_that_they_are_called():
    def parameters(network):
        return sum(p.numel() for p in network.parameters())

    with torch.device("meta"):
        one, two = one_tower(), two_towers()
        assert one(torch.empty(2, 3, 224, 224)).shape == two(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert parameters(two) == 60_965_224  # the paper's network
    assert parameters(one) == 61_100_840  # the model zoos'
    assert sum(stage_sizes()) == (60_965_224 + 1000) // 2  # tower a also has fc8's bias


def test_the_command_writes_what_it_measured(tmp_path, capsys):
    target = tmp_path / "new" / "bench.json"
    options = ("--repeats", "1", "--lrn-batch", "2", "--seconds", "0", "--json", str(target))
    command.main(["lrn", *options])
    entries = json.loads(target.read_text())
    assert [entry["stage"] for entry in entries] == [
        "lrn 2x96x55x55 float32",
        "lrn 2x256x27x27 float32",
        "lrn 2x96x55x55 bfloat16",
        "lrn 2x256x27x27 bfloat16",
    ]
    for entry in entries:
        assert entry.keys() >= KEYS
        assert all(math.isfinite(entry[key]) and entry[key] > 0 for key in ("ours", "peer", "limit"))
        assert entry["of_peer"] == entry["ours"] / entry["peer"]
        assert entry["of_limit"] == entry["ours"] / entry["limit"]
    output = capsys.readouterr().out
    assert "ours/limit" in output
    assert "limit: one multiplication" in output


@pytest.mark.parametrize("unit", units.NAMES)
def test_units_measures_every_unit_that_the_processor_has(unit):
    if units.library() is None:
        pytest.skip("no C compiler: cc")
    flags = Path("/proc/cpuinfo").read_text()
    there = {"bfloat16_matrix_operations": "amx_bf16", "bfloat16_vector_operations": "avx512_bf16"}
    assert (units.speed(unit, 0.001) > 0) == (there.get(unit, "") in flags)


def test_every_stage_has_its_file():
    for stage in get_args(Stage):
        assert callable(importlib.import_module(f"tests.benchmarks.stages.{stage}").rows)


def test_wrong_settings_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="--repeats must be positive"):
        Settings(repeats=0)
    with pytest.raises(SystemExit, match="error: there is no ImageNet at"):
        command.main(["preprocess", "--imagenet", str(tmp_path / "no"), "--json", str(tmp_path / "j")])
