"""Top-1 and top-5 error on the validation set, exact: each picture once, for any number of ranks.

python -m trainer.evaluate                the latest run's best checkpoint, centre crop
python -m trainer.evaluate --ten-crop     ten views a picture, their softmax outputs averaged (paper 4.1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich
import rich.table
import torch
from tqdm import tqdm

from preprocess.store import Store
from trainer import augment, checkpoint, runs
from trainer.cli import parse
from trainer.data import evaluation_batches, open_data
from trainer.errors import UserError
from trainer.metrics import Counts, count
from trainer.step import Trainer
from trainer.topology import Topology, all_or_none, arrange

CENTER, TEN = "centre crop", "ten crops"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Errors of trained networks on the validation set.

    Example: mpirun -n 2 python -m trainer.evaluate --ten-crop --run runs/paper-001
    """

    ten_crop: bool = False
    """Average the softmax outputs of ten views a picture: corners, centre, and their mirror images."""
    run: tuple[Path, ...] = ()
    """Folders of runs. None: the latest in runs/."""
    checkpoint: str = "best"
    """best: by validation error. latest: the newest. PATH: this one."""
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
    """Counts over the whole validation set by kind of view; every rank gets the sums.

    Ten crops hold the centre crop, so that both come from one pass.
    """
    topology = trainer.topology
    settings = trainer.config.augment
    cuts = augment.ten_crops(store.image_size) if ten_crop else augment.center_crop(store.image_size)
    center = cuts.index(augment.center_crop(store.image_size)[0])
    found = {CENTER: Counts(), **({TEN: Counts()} if ten_crop else {})}
    bar = tqdm(
        total=len(store.val),
        unit="img",
        desc=progress,
        disable=not (progress and topology.leads and sys.stderr.isatty()),
        leave=False,
    )
    for pictures, labels in evaluation_batches(store.val, batch, topology.pair, topology.pairs):
        labels_B = labels.to(topology.device)
        average_BK = torch.zeros(len(labels), trainer.classes, device=topology.device)
        for index, (top, left, flip) in enumerate(cuts):
            view = augment.fixed(len(labels), top, left, flip)
            images = augment.cut(pictures, store.mean, view, settings, training=False)
            p_BK = trainer.logits(images.to(topology.device)).softmax(1)
            average_BK += p_BK / len(cuts)
            if index == center:
                found[CENTER] += count(p_BK, labels_B)
        if ten_crop:
            found[TEN] += count(average_BK, labels_B)
        bar.update(len(labels) * topology.pairs)
    bar.close()
    return {views: _over_pairs(counts, trainer) for views, counts in found.items()}


def _over_pairs(counts: Counts, trainer: Trainer) -> Counts:
    values = torch.tensor([counts.images, counts.top1_wrong, counts.top5_wrong], dtype=torch.float64)
    return Counts(*(int(v) for v in trainer.transport.total(values)))


def evaluate_run(
    run: Path, arguments: Arguments, topology: Topology
) -> tuple[dict[str, Counts], checkpoint.Checkpoint]:
    """Load one run's checkpoint and evaluate it."""
    config = runs.read_config(run)
    precision = config.session.precision if arguments.precision == "auto" else arguments.precision
    config = runs.with_session(config, precision=precision)
    store = open_data(arguments.store or config.session.store)
    if not len(store.val):
        raise UserError("The store has no validation pictures; preprocess with a validation part.")
    # The batch of training means nothing here, and need not divide among these ranks.
    config = runs.with_batch(config, topology.pairs)
    trainer = Trainer(config, topology, len(store.classes))
    # One rank verifies, all read.
    found = checkpoint.find(run, arguments.checkpoint) if topology.leads else None
    loaded, remarks = topology.world.bcast(found)
    if topology.leads:
        for remark in remarks:
            rich.print(f"[yellow]{remark}[/]")
    checkpoint.load(loaded, trainer.towers, trainer.flat)
    counts = evaluate(trainer, store, arguments.ten_crop, arguments.batch_size, progress=run.name)
    return counts, loaded


def show(results: Sequence[tuple[Path, dict[str, Counts], checkpoint.Checkpoint]]) -> None:
    """A table of errors in percent."""
    table = rich.table.Table(title="Error on the validation set")
    for column in ("run", "checkpoint", "views", "images", "top-1 error", "top-5 error"):
        table.add_column(column, justify="left" if column in ("run", "checkpoint", "views") else "right")
    for run, counts, loaded in results:
        for views, c in counts.items():
            errors = (f"{100 * c.top1_error:.2f} %", f"{100 * c.top5_error:.2f} %")
            table.add_row(run.name, loaded.path.name, views, f"{c.images:,}", *errors)
    rich.print(table)


def record(counts: dict[str, Counts], loaded: checkpoint.Checkpoint) -> dict[str, Any]:
    """The figures of the views that were asked for, the last ones, as JSON holds them."""
    views, c = list(counts.items())[-1]
    return {
        "top1_error": c.top1_error,
        "top5_error": c.top5_error,
        "images": c.images,
        "views": 10 if views == TEN else 1,
        "checkpoint": str(loaded.path),
    }


def main(argv: Sequence[str] | None = None) -> None:
    with all_or_none():
        arguments = parse(Arguments, "python -m trainer.evaluate", Arguments(), argv)
        topology = arrange(arguments.device)
        results = []
        for run in arguments.run or (runs.latest(),):
            counts, loaded = evaluate_run(run, arguments, topology)
            results.append((run, counts, loaded))
        if topology.leads:
            show(results)
            if arguments.json:
                records = [record(counts, loaded) for _, counts, loaded in results]
                text = json.dumps(records[0] if len(records) == 1 else records, indent=1)
                checkpoint.write_atomic(arguments.json, text.encode())


if __name__ == "__main__":
    main()
