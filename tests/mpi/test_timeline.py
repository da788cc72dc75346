"""Timelines recorded on real ranks."""

from itertools import pairwise

import pytest
from mpi4py import MPI

from trainer.commands.timeline import MAIN, REDUCTIONS, chrome_trace, exposed, record
from trainer.parallel.topology import init_topology
from trainer.timeline import Arguments

from .test_parity import SMALL

pytestmark = pytest.mark.mpi(min_size=2)


def test_a_timeline_has_every_phase_of_every_step_in_order_and_its_reductions():
    topology = init_topology("cpu")
    arguments = Arguments(steps=2, batch_size=8, precision="float32", network=SMALL)
    spans, seconds, idle = record(arguments, topology)
    computing = [span for span in spans if span.row == MAIN]
    for before, after in pairwise(computing):
        assert before.begin <= before.end == after.begin
    names = [span.name for span in computing]
    for stage in (1, 2, 3, 4):
        for phase in ("forward pass", "backward pass", "update"):
            assert names.count(f"the {phase} of stage {stage}") == 2
    assert computing[-1].end <= 2 * seconds * 1.001

    reductions = [span for span in spans if span.row == REDUCTIONS]
    # A stage's reduction begins once its gradients exist, and ends before its update.
    backward, updates = (
        [span for span in computing if span.name.startswith(f"the {phase}")]
        for phase in ("backward pass", "update")
    )
    for number in range(8):  # four stages in each of two steps, the top one first
        assert backward[number].begin < reductions[number].begin
        assert reductions[number].end < updates[number].begin
    waited = exposed(spans)
    assert 0 < sum(waited.values()) < 2 * seconds
    assert idle > 0

    gathered = MPI.COMM_WORLD.gather(spans)
    if gathered:
        events = chrome_trace(gathered)["traceEvents"]
        assert {event["pid"] for event in events} == set(range(MPI.COMM_WORLD.size))
        shown = [event for event in events if event["ph"] == "X" and event["pid"] == 0]
        assert sum(event["dur"] for event in shown if event["tid"] == MAIN) == pytest.approx(
            1e6 * sum(span.end - span.begin for span in computing)
        )
