"""Top-1 and top-5 error on the validation set, exact: each picture once, for any number of ranks.

python -m trainer.evaluate                             the latest run's best checkpoint, centre crop
python -m trainer.evaluate --ten-crop                  ten views a picture, their softmax outputs averaged
python -m trainer.evaluate --run A B C --ensemble      three networks' softmax outputs averaged too
python -m trainer.evaluate --per-class                 the classes with the highest errors

B batch, K classes, n pictures of this rank's share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rich
import torch
from mpi4py import MPI
from torch import Tensor

from preprocess.shared.files import write_atomically
from preprocess.shared.progress import images as images_bar
from preprocess.store import Store
from trainer.cli import parse
from trainer.config import Config, with_changes
from trainer.data import augmentation
from trainer.data.batches import evaluation_batches, open_data
from trainer.errors import UserError
from trainer.evaluation.ensemble import Ensemble
from trainer.evaluation.metrics import Counts, Tally
from trainer.evaluation.results import CENTER, TEN, Result, record, show, show_classes
from trainer.parallel.topology import Topology, abort_all_on_error, init_topology, on_root
from trainer.runs import checkpoint, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.training_set import TrainingSet, as_seen
from trainer.training.signals import Requests
from trainer.training.step import Trainer

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Errors of trained networks on the validation set.

    Example: mpirun -n 2 python -m trainer.evaluate --ten-crop --run runs/paper-001
    """

    ten_crop: bool = False
    """Average the softmax outputs of ten views a picture: corners, centre, and their mirror images."""
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
    """Pictures at a time, each pair of ranks for itself."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: what the run was trained with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


class StoppedError(Exception):
    """A signal or a file asked to stop in the middle of an evaluation."""


def evaluate(
    trainer: Trainer,
    store: Store,
    ten_crop: bool,
    batch: int,
    progress: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Counts]:
    """Counts over the whole validation set by kind of view; every rank gets the sums.

    stop: asked by all ranks before each batch, with the same answer on all; StoppedError is raised when it
    says so.
    """
    found = tallies(trainer, store, ten_crop, batch, progress, stop=stop)
    return {views: tally.counts for views, tally in found.items()}


def tallies(
    trainer: Trainer,
    store: Store,
    ten_crop: bool,
    batch: int,
    progress: str = "",
    ensemble: Ensemble | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Tally]:
    """The same class by class; the outputs are added to `ensemble` too."""
    found = {views: Tally(trainer.classes) for views in ((CENTER, TEN) if ten_crop else (CENTER,))}
    for number, (labels_B, outputs) in enumerate(_outputs(trainer, store, ten_crop, batch, progress, stop)):
        for views, p_BK in outputs.items():
            found[views].add(p_BK, labels_B)
        if ensemble:
            ensemble.add(number, labels_B, outputs)
    return {views: tally.summed(trainer.transport.all_reduce_scalars) for views, tally in found.items()}


def _outputs(
    trainer: Trainer, store: Store, ten_crop: bool, batch: int, progress: str, stop: Callable[[], bool]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Labels and softmax outputs float32 [B, K] by kind of view, for this pair's share of the pictures.

    Ten crops hold the centre crop, so that both come from one pass.
    """
    topology = trainer.topology
    settings = trainer.config.augment
    cuts = (
        augmentation.ten_crops(store.image_size) if ten_crop else augmentation.center_crop(store.image_size)
    )
    center = cuts.index(augmentation.center_crop(store.image_size)[0])
    shown = bool(progress) and topology.is_root
    bar = images_bar(len(store.val), 0, progress, shown, leave=False)
    batches = evaluation_batches(store.val, batch, topology.pair, topology.pairs)
    largest_share = -(-len(store.val) // topology.pairs)
    for _ in range(-(-largest_share // batch)):  # the same number on all ranks, or they could not agree
        if stop():
            bar.close()
            raise StoppedError
        pictures, labels = next(batches, (None, None))
        if pictures is None or labels is None:  # this pair's share is done
            continue
        found: dict[str, Tensor] = {}
        average_BK = torch.zeros(len(labels), trainer.classes, device=topology.device)
        for index, (top, left, flip) in enumerate(cuts):
            view = augmentation.fixed(len(labels), top, left, flip)
            images = augmentation.cut(pictures, store.mean, view, settings, training=False)
            p_BK = trainer.logits(images.to(topology.device)).softmax(1)
            average_BK += p_BK / len(cuts)
            if index == center:
                found[CENTER] = p_BK
        if ten_crop:
            found[TEN] = average_BK
        yield labels.to(topology.device), found
        bar.update(len(labels) * topology.pairs)
    bar.close()


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network that is evaluated, as rank 0 found it on the disk."""

    run: Path
    config: Config
    found: Checkpoint
    trained_on: TrainingSet
    remarks: list[str]


def members(arguments: Arguments) -> list[tuple[Path, str]]:
    """Every run with every checkpoint. Without --run a checkpoint's PATH names its run, the one whose folder
    it lies in; best and latest are those of the latest run."""
    if arguments.run:
        return [(run, which) for run in arguments.run for which in arguments.checkpoint]
    named = (checkpoint.BEST, checkpoint.LATEST)
    return [
        (run_folder.latest() if which in named else checkpoint.run_of(Path(which)), which)
        for which in arguments.checkpoint
    ]


def _find(arguments: Arguments) -> list[Member]:
    """All networks that were named. Raises UserError."""
    found: list[Member] = []
    for run, which in members(arguments):
        config = run_folder.read_config(run)
        loaded, remarks = checkpoint.find(run, which)
        if arguments.ensemble and any(loaded.path == other.found.path for other in found):
            raise UserError(f"{loaded.path} is twice in the ensemble.")
        trained_on = TrainingSet.read(loaded.path) or TrainingSet.of(
            run_folder.store_of(run, arguments.store or config.run.store)
        )
        found.append(Member(run=run, config=config, found=loaded, trained_on=trained_on, remarks=remarks))
    if arguments.ensemble:
        _refuse_odd_ensemble(found, arguments.store)
    return found


def _refuse_odd_ensemble(found: Sequence[Member], store: Path | None) -> None:
    """Raise UserError where networks cannot be averaged image by image."""
    if len(found) < 2:
        raise UserError("An ensemble wants two networks or more: name them with --run or with --checkpoint.")
    if len({member.trained_on.classes for member in found}) > 1:
        raise UserError(
            "These networks do not tell the same classes apart, in one order: leave out --ensemble."
        )
    if store is None and len({member.trained_on.fingerprint for member in found}) > 1:
        raise UserError("An ensemble's networks were trained on different stores: name one with --store.")
    if len({member.config.network.towers for member in found}) > 1:
        raise UserError("Networks of one tower and of two lie differently on ranks: leave out --ensemble.")


def evaluate_all(arguments: Arguments, world: MPI.Comm, requests: Requests) -> list[Result]:
    """Each network's counts and, where it is asked for, their ensemble's after them.

    Raises StoppedError when a signal asks any rank to stop.
    """
    found = on_root(world, lambda: _find(arguments))  # rank 0 looks at the disk, all are told
    towers = {member.config.network.towers for member in found}
    topologies = {n: init_topology(arguments.device, world, towers=n) for n in towers}
    ensemble = Ensemble() if arguments.ensemble else None
    results: list[Result] = []
    for member in found:
        topology = topologies[member.config.network.towers]
        store, remarks = as_seen(open_data(arguments.store or member.config.run.store), member.trained_on)
        if topology.is_root:
            for remark in [*member.remarks, *remarks]:
                rich.get_console().print(remark, style="yellow", markup=False, soft_wrap=True)
        trainer = _load(member, arguments, topology, store)
        views = tallies(
            trainer,
            store,
            arguments.ten_crop,
            arguments.batch_size,
            member.run.name,
            ensemble,
            stop=lambda: bool(world.allreduce(requests.signalled, MPI.LOR)),
        )
        path = member.found.path
        results.append(Result(name=member.run.name, checkpoints=(path,), tallies=views, store=store))
        total = trainer.transport.all_reduce_scalars
        del trainer  # or the next one would stand beside it in memory
    if ensemble:
        paths = tuple(path for result in results for path in result.checkpoints)
        views = ensemble.tallies(list(views), len(store.classes), total)
        results.append(Result(name="ensemble", checkpoints=paths, tallies=views, store=store))
    return results


def _load(member: Member, arguments: Arguments, topology: Topology, store: Store) -> Trainer:
    """One checkpoint's network."""
    if not len(store.val):
        raise UserError("The store has no validation pictures; preprocess with a validation part.")
    config = member.config
    precision = config.hardware.precision if arguments.precision == "auto" else arguments.precision
    config = with_changes(config, precision=precision, compile=False)  # which serves training
    # The batch of training means nothing here, and need not divide among these ranks.
    trainer = Trainer(with_changes(config, batch_size=topology.pairs), topology, len(store.classes))
    checkpoint.load(member.found, trainer.towers, trainer.flat, topology.tower_comm)
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    with abort_all_on_error():
        requests = Requests()
        arguments = parse(Arguments, "python -m trainer.evaluate", Arguments(), argv)
        world = MPI.COMM_WORLD
        try:
            results = evaluate_all(arguments, world, requests)
        except StoppedError:
            if world.rank == 0:
                print("asked to stop: nothing was measured; start the same command again", flush=True)
            results = []
        if results and world.rank == 0:
            show(results)
            if arguments.per_class:
                for result in results:
                    show_classes(result)
            if arguments.json:
                records = [record(result, arguments.per_class) for result in results]
                text = json.dumps(records[0] if len(records) == 1 else records, indent=1)
                write_atomically(arguments.json, text.encode())
        world.Barrier()
    if not results:
        raise SystemExit(STOPPED)


if __name__ == "__main__":
    main()
