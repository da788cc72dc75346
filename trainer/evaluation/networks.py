"""Which trained networks are evaluated. Each is loaded without gradients, momenta or an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from preprocess.store import Store
from trainer.config import Config
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.ensemble import Ensemble
from trainer.evaluation.results import Result
from trainer.evaluation.validation import BATCH, evaluate
from trainer.model.initial_weights import empty_tower
from trainer.parallel.connect import connect
from trainer.parallel.device import kernels_left_out, resolve_precision
from trainer.parallel.memory import require_memory
from trainer.parallel.network import ParallelNetwork
from trainer.parallel.topology import Topology
from trainer.parallel.transport import Transport
from trainer.runs import checkpoint, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.training_set import TrainingSet, as_seen


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network that is evaluated, as rank 0 found it on the disk."""

    run: Path
    config: Config
    found: Checkpoint
    trained_on: TrainingSet
    remarks: list[str]
    """A sentence for each damaged checkpoint that was passed over."""


def named(folders: Sequence[Path], checkpoints: Sequence[str]) -> list[tuple[Path, str]]:
    """Every run with every checkpoint. Without a run a checkpoint's path names the one whose folder it lies
    in; best and latest are those of the latest run in runs/."""
    if folders:
        return [(run, which) for run in folders for which in checkpoints]
    markers = (checkpoint.BEST, checkpoint.LATEST)
    return [
        (run_folder.latest() if which in markers else checkpoint.run_of(Path(which)), which)
        for which in checkpoints
    ]


def find(
    folders: Sequence[Path], checkpoints: Sequence[str], store: Path | None, ensemble: bool
) -> list[Member]:
    """All networks that were named. Raises UserError where one is missing or they cannot be averaged."""
    found: list[Member] = []
    for run, which in named(folders, checkpoints):
        config = run_folder.read_config(run)
        loaded, remarks = checkpoint.find(run, which)
        if ensemble and any(loaded.path == other.found.path for other in found):
            raise UserError(f"{loaded.path} is twice in the ensemble.")
        trained_on = TrainingSet.read(loaded.path) or TrainingSet.of(
            run_folder.store_of(run, store or config.run.store)
        )
        found.append(Member(run=run, config=config, found=loaded, trained_on=trained_on, remarks=remarks))
    if ensemble:
        _refuse_odd_ensemble(found, store)
    return found


def _refuse_odd_ensemble(found: Sequence[Member], store: Path | None) -> None:
    """Raise UserError where networks cannot be averaged image by image."""
    if len(found) < 2:
        raise UserError("An ensemble needs two networks or more: name them with --run or with --checkpoint.")
    if len({member.trained_on.classes for member in found}) > 1:
        raise UserError(
            "These networks do not tell the same classes apart, in one order: leave out --ensemble."
        )
    if store is None and len({member.trained_on.fingerprint for member in found}) > 1:
        raise UserError("An ensemble's networks were trained on different stores: name one with --store.")
    if len({member.config.network.towers for member in found}) > 1:
        raise UserError("Networks of one tower and of two lie differently on ranks: leave out --ensemble.")


def load(
    member: Member, precision: str, topology: Topology, transport: Transport, classes: int
) -> ParallelNetwork:
    """One checkpoint's network on these ranks. `precision`: auto is that of its training."""
    setting = member.config.hardware.precision if precision == "auto" else precision
    dtype: torch.dtype = getattr(torch, resolve_precision(setting, topology.device))
    towers = []
    for name in topology.towers:
        tower = empty_tower(member.config.network, classes, name, topology.device).to(dtype)
        tower.requires_grad_(False)
        checkpoint.load(member.found, name, dict(tower.named_parameters()), topology.tower_comm)
        towers.append(tower)
    return ParallelNetwork(towers, classes, topology, transport, dtype)


def evaluate_all(
    members: Sequence[Member],
    topologies: dict[int, Topology],
    *,
    store: Path | None = None,
    ten_crop: bool = False,
    ensemble: bool = False,
    held_classes: bool = False,
    batch_size: int | None = None,
    precision: str = "auto",
    remark: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Each network's counts, one after the other; after them those of the average, if `ensemble`.

    Args:
        topologies: of networks with so many towers.
        store: another store than that of training; its classes are matched by name.
        held_classes: a guess is one of the classes that have images, as ImageNet-A and -R are evaluated.
        remark: gets a sentence for each thing that the user should know.

    Raises:
        UserError: a store cannot be evaluated on.
        StoppedError: `stop` returned True on all ranks.
    """
    transports = {towers: connect(topology) for towers, topology in topologies.items()}
    together = Ensemble() if ensemble else None
    results: list[Result] = []
    for member in members:
        towers = member.config.network.towers
        topology, transport = topologies[towers], transports[towers]
        seen, remarks = _seen(member, store)
        for sentence in [*member.remarks, *remarks]:
            remark(sentence)
        batch = batch_size or BATCH[topology.device.type]
        images = min(batch, -(-len(seen.val) // topology.pairs))
        crop = member.config.augment.crop_size
        bytes_of_one = 3 * (seen.image_size**2 + 4 * crop**2)  # stored, and as input in float32
        work = f"Evaluation (--batch-size {batch})"
        require_memory(topology, images * bytes_of_one, work, "choose a smaller --batch-size")
        network = load(member, precision, topology, transport, len(seen.classes))
        for sentence in kernels_left_out(topology.device, network.dtype):
            remark(sentence)
        tallies = evaluate(
            network,
            seen,
            member.config.augment,
            ten_crop=ten_crop,
            batch=batch,
            title=member.run.name,
            ensemble=together,
            held_K=_held(seen) if held_classes else None,
            stop=stop,
        )
        del network  # the next one takes its memory
        path = member.found.path
        result = Result(
            name=member.run.name,
            checkpoints=(path,),
            tallies=tallies,
            store=seen,
            held_classes=held_classes,
        )
        results.append(result)
        yield results[-1]
    if together:
        paths = tuple(path for result in results for path in result.checkpoints)
        kinds, last = list(results[-1].tallies), results[-1].store
        tallies = together.tallies(kinds, len(last.classes), transport.all_reduce_scalars)
        yield Result(
            name="ensemble", checkpoints=paths, tallies=tallies, store=last, held_classes=held_classes
        )


def _seen(member: Member, path: Path | None) -> tuple[Store, list[str]]:
    """The store as this network sees it, and what differs. Raises UserError without validation images."""
    seen, remarks = as_seen(
        open_data(path or member.config.run.store, member.config.augment.crop_size), member.trained_on
    )
    if not len(seen.val):
        raise UserError("The store has no validation images; preprocess with a validation part.")
    held, known = int(_held(seen).sum()), len(seen.classes)
    if held < known:
        remarks.append(f"The images are of {held:,} of the network's {known:,} classes.")
    return seen, remarks


def _held(store: Store) -> torch.Tensor:
    """The classes that have validation images, bool [K]."""
    return torch.from_numpy(np.bincount(store.val.labels, minlength=len(store.classes)) > 0)
