"""Top-1 and top-5 error on the validation set, exact: each image once, for any number of ranks.

python -m trainer.evaluate                             the latest run's best checkpoint, centre crop
python -m trainer.evaluate --ten-crop                  ten views an image, their softmax outputs averaged
python -m trainer.evaluate --run A B C --ensemble      three networks' softmax outputs averaged too
python -m trainer.evaluate --per-class                 the classes with the highest errors
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rich

from preprocess.shared.files import write_atomically
from trainer.cli import parse
from trainer.evaluation import networks
from trainer.evaluation.results import Result, record, show, show_classes
from trainer.evaluation.validation import StoppedError
from trainer.parallel.agreement import any_rank, on_root
from trainer.parallel.ending import abort_all_on_error
from trainer.parallel.topology import Topology, init_topology, world
from trainer.training.signals import Requests

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Errors of trained networks on the validation set.

    Example: mpirun -n 2 python -m trainer.evaluate --ten-crop --run runs/paper-001
    """

    ten_crop: bool = False
    """Average the softmax outputs of ten crops: the corners and the centre, and the same flipped."""
    ensemble: bool = False
    """Average the softmax outputs of all the networks that --run and --checkpoint name (paper, section 6)."""
    per_class: bool = False
    """Print the classes with the highest errors; --json gets all of them, and the confusion matrix."""
    run: tuple[Path, ...] = ()
    """Folders of runs. None: the latest in runs/."""
    checkpoint: tuple[str, ...] = ("best",)
    """best: by validation error. latest: the newest. PATH: this one. Several: each of them, of every run."""
    store: Path | None = None
    """Another store than the one the run was trained on; its classes are matched by name."""
    json: Path | None = None
    """Write the figures to this file too."""
    batch_size: int = 64
    """Images that each pair of ranks computes at a time."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: what the run was trained with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


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


def main(argv: Sequence[str] | None = None) -> None:
    with abort_all_on_error():
        requests = Requests()
        arguments = parse(Arguments, "python -m trainer.evaluate", Arguments(), argv)
        try:
            results, topology = measure(arguments, requests)
        except StoppedError:
            if world().rank == 0:
                print("asked to stop: nothing was measured; start the same command again", flush=True)
            raise SystemExit(STOPPED) from None
        if topology.is_root:
            report(results, arguments)
        topology.world.Barrier()


if __name__ == "__main__":
    main()
