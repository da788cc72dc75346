"""The errors of trained networks on the validation set: measured on all ranks, printed by rank 0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import rich

from preprocess.shared.files import write_atomically
from trainer.errors import require_output
from trainer.evaluation import networks
from trainer.evaluation.results import Result, record, show, show_classes
from trainer.evaluation.validation import StoppedError
from trainer.parallel.agreement import any_rank, on_root
from trainer.parallel.ending import abort_all_on_error
from trainer.parallel.topology import Topology, init_topology, world
from trainer.training.signals import Requests

if TYPE_CHECKING:
    from trainer.evaluate import Arguments

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again


def measure(arguments: Arguments, requests: Requests) -> tuple[list[Result], Topology]:
    """Each network's counts and, where it is asked for, their ensemble's after them.

    Raises StoppedError when a signal asks any rank to stop.
    """
    a = arguments
    found = on_root(world(), lambda: networks.find(a.run, a.checkpoint, a.store, a.ensemble))
    towers = {member.config.network.towers for member in found}
    topologies: dict[int, Topology] = {n: init_topology(a.device, towers=n) for n in towers}
    topology = next(iter(topologies.values()))

    def remark(sentence: str) -> None:
        if topology.is_root:
            rich.get_console().print(sentence, style="yellow", markup=False, soft_wrap=True)

    results = networks.evaluate_all(
        found,
        topologies,
        store=a.store,
        ten_crop=a.ten_crop,
        ensemble=a.ensemble,
        held_classes=a.held_classes,
        batch_size=a.batch_size,
        precision=a.precision,
        remark=remark,
        stop=lambda: any_rank(topology.world, requests.signalled),
    )
    return list(results), topology


def report(results: Sequence[Result], arguments: Arguments) -> None:
    """Print the tables, and write the JSON file."""
    show(results)
    if arguments.per_class:
        for result in results:
            show_classes(result)
    if arguments.json:
        records = [record(result, arguments.per_class) for result in results]
        text = json.dumps(records[0] if len(records) == 1 else records, indent=1)
        write_atomically(arguments.json, text.encode())


def run(arguments: Arguments) -> None:
    """Evaluate on all ranks; rank 0 prints."""
    with abort_all_on_error():
        on_root(world(), lambda: require_output(arguments.json))
        requests = Requests()
        try:
            results, topology = measure(arguments, requests)
        except StoppedError:
            if world().rank == 0:
                print("asked to stop: nothing was measured; start the same command again", flush=True)
            raise SystemExit(STOPPED) from None
        if topology.is_root:
            report(results, arguments)
        topology.world.Barrier()
