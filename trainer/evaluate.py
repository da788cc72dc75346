"""Top-1 and top-5 error on the validation set, exact: each picture once, for any number of ranks.

python -m trainer.evaluate                             the latest run's best checkpoint, centre crop
python -m trainer.evaluate --ten-crop                  ten views a picture, their softmax outputs averaged
python -m trainer.evaluate --run A B C --ensemble      three networks' softmax outputs averaged too
python -m trainer.evaluate --per-class                 the classes with the highest errors

B batch, K classes, n pictures of this rank's share.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rich
import torch
from torch import Tensor
from tqdm import tqdm

from preprocess.store import Store
from trainer import augment, checkpoint, runs
from trainer.cli import parse
from trainer.config import Config
from trainer.data import evaluation_batches, open_data
from trainer.ensemble import Ensemble
from trainer.errors import UserError
from trainer.metrics import Counts, Tally
from trainer.results import CENTER, TEN, Result, record, show, show_classes
from trainer.step import Trainer
from trainer.topology import Topology, all_or_none, arrange, from_root


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
    """Another store than the one the run was trained on."""
    json: Path | None = None
    """Write the figures to this file too."""
    batch_size: int = 64
    """Pictures at a time, each pair of ranks for itself."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: what the run was trained with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


def evaluate(
    trainer: Trainer, store: Store, ten_crop: bool, batch: int, progress: str = ""
) -> dict[str, Counts]:
    """Counts over the whole validation set by kind of view; every rank gets the sums."""
    found = tallies(trainer, store, ten_crop, batch, progress)
    return {views: tally.counts for views, tally in found.items()}


def tallies(
    trainer: Trainer,
    store: Store,
    ten_crop: bool,
    batch: int,
    progress: str = "",
    ensemble: Ensemble | None = None,
) -> dict[str, Tally]:
    """The same class by class; the outputs are added to `ensemble` too."""
    found = {views: Tally(trainer.classes) for views in ((CENTER, TEN) if ten_crop else (CENTER,))}
    for number, (labels_B, outputs) in enumerate(_outputs(trainer, store, ten_crop, batch, progress)):
        for views, p_BK in outputs.items():
            found[views].add(p_BK, labels_B)
        if ensemble:
            ensemble.add(number, labels_B, outputs)
    return {views: tally.summed(trainer.transport.total) for views, tally in found.items()}


def _outputs(
    trainer: Trainer, store: Store, ten_crop: bool, batch: int, progress: str
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Labels and softmax outputs float32 [B, K] by kind of view, for this pair's share of the pictures.

    Ten crops hold the centre crop, so that both come from one pass.
    """
    topology = trainer.topology
    settings = trainer.config.augment
    cuts = augment.ten_crops(store.image_size) if ten_crop else augment.center_crop(store.image_size)
    center = cuts.index(augment.center_crop(store.image_size)[0])
    bar = tqdm(
        total=len(store.val),
        unit="img",
        desc=progress,
        disable=not (progress and topology.leads and sys.stderr.isatty()),
        leave=False,
    )
    for pictures, labels in evaluation_batches(store.val, batch, topology.pair, topology.pairs):
        found: dict[str, Tensor] = {}
        average_BK = torch.zeros(len(labels), trainer.classes, device=topology.device)
        for index, (top, left, flip) in enumerate(cuts):
            view = augment.fixed(len(labels), top, left, flip)
            images = augment.cut(pictures, store.mean, view, settings, training=False)
            p_BK = trainer.logits(images.to(topology.device)).softmax(1)
            average_BK += p_BK / len(cuts)
            if index == center:
                found[CENTER] = p_BK
        if ten_crop:
            found[TEN] = average_BK
        yield labels.to(topology.device), found
        bar.update(len(labels) * topology.pairs)
    bar.close()


def members(arguments: Arguments) -> list[tuple[Path, str]]:
    """Every run with every checkpoint. Without --run a checkpoint's PATH names its run, the folder two
    above it; best and latest are those of the latest run."""
    if arguments.run:
        return [(run, which) for run in arguments.run for which in arguments.checkpoint]
    above = [(Path(which).absolute().parent.parent, which) for which in arguments.checkpoint]
    return [(run if (run / runs.CONFIG).exists() else runs.latest(), which) for run, which in above]


def evaluate_all(arguments: Arguments) -> tuple[list[Result], bool]:
    """Each network's counts and, where it is asked for, their ensemble's after them; and whether this rank
    is the one that speaks."""
    named = members(arguments)
    configs = [runs.read_config(run) for run, _ in named]
    stores = [open_data(arguments.store or config.session.store) for config in configs]
    if arguments.ensemble:
        _refuse_odd_ensemble(configs, stores)
    topologies = {n: arrange(arguments.device, towers=n) for n in {c.network.towers for c in configs}}
    ensemble = Ensemble() if arguments.ensemble else None
    results: list[Result] = []
    for (run, which), config, store in zip(named, configs, stores, strict=True):
        trainer, path = _open(run, which, config, arguments, topologies[config.network.towers], store)
        if ensemble and any(path in result.checkpoints for result in results):
            raise UserError(f"{path} is twice in the ensemble.")
        found = tallies(trainer, store, arguments.ten_crop, arguments.batch_size, run.name, ensemble)
        results.append(Result(name=run.name, checkpoints=(path,), tallies=found, store=store))
        total = trainer.transport.total
        del trainer  # or the next one would stand beside it in memory
    if ensemble:
        paths = tuple(path for result in results for path in result.checkpoints)
        found = ensemble.tallies(list(found), len(store.classes), total)
        results.append(Result(name="ensemble", checkpoints=paths, tallies=found, store=store))
    return results, next(iter(topologies.values())).leads


def _refuse_odd_ensemble(configs: Sequence[Config], stores: Sequence[Store]) -> None:
    """Raise UserError where networks cannot be averaged picture by picture."""
    if len(configs) < 2:
        raise UserError("An ensemble wants two networks or more: name them with --run or with --checkpoint.")
    if len({store.fingerprint for store in stores}) > 1:
        raise UserError("An ensemble's networks were trained on different stores: name one with --store.")
    if len({config.network.towers for config in configs}) > 1:
        raise UserError("Networks of one tower and of two lie differently on ranks: leave out --ensemble.")


def _open(
    run: Path, which: str, config: Config, arguments: Arguments, topology: Topology, store: Store
) -> tuple[Trainer, Path]:
    """One checkpoint's network, and where it lies."""
    if not len(store.val):
        raise UserError("The store has no validation pictures; preprocess with a validation part.")
    precision = config.session.precision if arguments.precision == "auto" else arguments.precision
    config = runs.with_session(config, precision=precision, compile=False)  # which serves training
    # The batch of training means nothing here, and need not divide among these ranks.
    trainer = Trainer(runs.with_batch(config, topology.pairs), topology, len(store.classes))
    # One rank verifies, all read.
    loaded, remarks = from_root(topology.world, lambda: checkpoint.find(run, which))
    if topology.leads:
        for remark in remarks:
            rich.print(f"[yellow]{remark}[/]")
    checkpoint.load(loaded, trainer.towers, trainer.flat)
    return trainer, loaded.path


def main(argv: Sequence[str] | None = None) -> None:
    with all_or_none():
        arguments = parse(Arguments, "python -m trainer.evaluate", Arguments(), argv)
        results, speaks = evaluate_all(arguments)
        if speaks:
            show(results)
            if arguments.per_class:
                for result in results:
                    show_classes(result)
            if arguments.json:
                records = [record(result, arguments.per_class) for result in results]
                text = json.dumps(records[0] if len(records) == 1 else records, indent=1)
                checkpoint.write_atomic(arguments.json, text.encode())


if __name__ == "__main__":
    main()
