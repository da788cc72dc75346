"""Stage 1: decide what the store will hold and in which order, and create it empty.

Usage: python -m preprocess.index --imagenet PATH --store PATH [settings]
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess import stage
from preprocess.errors import UserError
from preprocess.plan import (
    SPLITS,
    Plan,
    find,
    identified,
    manifest,
    require_image_size,
    save,
    work_folder,
)
from preprocess.shards.skip import leave_out, publish
from preprocess.shared.files import write_json
from preprocess.sources.official import check_md5, extent
from preprocess.sources.recognise import recognise
from preprocess.sources.tables import Source

Table = NDArray[np.void]


def choose(
    source: Source, *, seed: int, validation_fraction: float, train_per_class: int, validation_per_class: int
) -> dict[str, Table]:
    """The pictures of both splits, each in one shuffled order that follows from the seed alone.

    Args:
        source: what was found.
        seed: of the order and of every choice.
        validation_fraction: share kept back for validation where the source has no validation part.
        train_per_class, validation_per_class: at most so many of a class are taken; 0 means all.

    Raises:
        UserError: a split would be empty.
    """
    generator = np.random.default_rng(seed)
    train, val = generator.permutation(source.train), generator.permutation(source.val)
    if not len(val):
        train, val = hold_back(train, validation_fraction, generator)
    chosen = {
        "train": at_most_per_class(train, train_per_class),
        "val": at_most_per_class(val, validation_per_class),
    }
    for split, pictures in chosen.items():
        if not len(pictures):
            raise UserError(
                f"no picture is left for {split}, with {len(source.train)} in all: "
                f"change validation_fraction, which is {validation_fraction}"
            )
    return chosen


def hold_back(pictures: Table, fraction: float, generator: np.random.Generator) -> tuple[Table, Table]:
    """Split off round(fraction * N) pictures, from every class its share.

    A class of n gives fraction * n, up or down by one: its pictures stand at (0 + phase) / n,
    (1 + phase) / n, ... with a phase drawn from 0..1, and those that stand lowest are kept back.
    """
    label, rank = pictures["label"], rank_in_class(pictures)
    phase = generator.random(int(label.max()) + 1)
    place = (rank + phase[label]) / np.bincount(label)[label]
    back = np.zeros(len(pictures), dtype=bool)
    back[np.argsort(place, kind="stable")[: round(fraction * len(pictures))]] = True
    return pictures[~back], pictures[back]


def at_most_per_class(pictures: Table, limit: int) -> Table:
    """The first `limit` of each class, in the order given; all for 0."""
    return pictures[rank_in_class(pictures) < limit] if limit else pictures


def rank_in_class(pictures: Table) -> NDArray[np.int64]:
    """How many of the same class stand before each picture, int64 [N]."""
    order = np.argsort(pictures["label"], kind="stable")
    label = pictures["label"][order]
    rank = np.empty(len(pictures), dtype=np.int64)
    rank[order] = np.arange(len(pictures)) - np.searchsorted(label, label)
    return rank


def refuse_other_store(store: Path, old: Plan, new: Plan) -> None:
    """Raise UserError if the store at this place was begun as something else."""
    if old.origin == new.origin:
        return
    for setting in ("image_size", "shard_length", "draft", "seed", "counts", "kind"):
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            reason = f"with {setting} {before}, not {after}"
            break
    else:
        reason = "from other pictures"
    raise UserError(
        f"{store} was made {reason}: name another place with --config store=PATH, or remove {store} first"
    )


def index(arguments: argparse.Namespace) -> str:
    """Find the source, choose, and create the store; a store that is there already must be the same."""
    store: Path = arguments.store
    require_image_size(arguments.image_size)
    old = find(store)
    cache = work_folder(store) / "archives"
    source = recognise(arguments.imagenet, cache)
    size = extent(source, arguments.subset)
    if arguments.verify_md5:
        check_md5(source, cache)
    tables = choose(
        source,
        seed=arguments.seed,
        validation_fraction=arguments.validation_fraction,
        train_per_class=arguments.train_per_class,
        validation_per_class=arguments.validation_per_class,
    )
    plan = Plan(
        kind=source.kind,
        source=str(source.root.resolve()),
        archives=source.archives,
        classes=source.classes,
        class_names=source.class_names,
        image_size=arguments.image_size,
        shard_length=arguments.shard_length,
        draft=arguments.draft,
        seed=arguments.seed,
        counts={split: len(tables[split]) for split in SPLITS},
    )
    plan = identified(plan, tables)
    plan = replace(plan, origin=plan.identity)
    if old:
        refuse_other_store(store, old, plan)
        if arguments.on_error == "skip":
            plan, tables = leave_out(plan, tables, old.skipped)
    if old and old.identity == plan.identity and (store / "zarr.json").is_file():
        save(store, plan, tables)  # the source may have moved
        write_json(manifest(store, "index"), {"identity": plan.identity, "counts": plan.counts})
    else:
        publish(store, plan, tables)
    for entry in source.ignored:
        stage.log.info("left aside: %s", entry)
    return summary(arguments, source, plan, size)


def summary(arguments: argparse.Namespace, source: Source, plan: Plan, size: str) -> str:
    """What was recognised, and what will be made of it."""
    used = (
        f"{len(plan.classes)} classes, {plan.counts['train']} pictures for training, "
        f"{plan.counts['val']} for validation{'' if len(source.val) else ' (kept back from train)'}"
    )
    md5 = "; MD5 sums are those of ILSVRC-2012" if arguments.verify_md5 else ""
    without = len(plan.classes) - len(np.unique(source.train["label"]))
    empty = f"; {without} classes have no picture for training" if without else ""
    first = ", ".join(source.ignored[:3]) + (", ..." if source.ignored[3:] else "")
    aside = f"; {len(source.ignored)} entries were left aside: {first}" if source.ignored else ""
    return f"{arguments.imagenet}: {source.kind}, {size}{md5}; {used}{empty}{aside}"


if __name__ == "__main__":
    command = stage.parser(__doc__)
    command.add_argument("--imagenet", type=Path, required=True, help="folder or tar with the pictures")
    command.add_argument("--image-size", type=int, default=256, help="side of the stored pictures, pixels")
    command.add_argument("--shard-length", type=int, default=1024, help="pictures a shard")
    command.add_argument("--draft", action="store_true", help="let the JPEG decoder shrink large pictures")
    command.add_argument("--seed", type=int, default=2012, help="of the order and of what is kept back")
    command.add_argument(
        "--validation-fraction", type=float, default=0.1, help="kept back without a val part"
    )
    command.add_argument("--train-per-class", type=int, default=0, help="take at most so many; 0: all")
    command.add_argument("--validation-per-class", type=int, default=0, help="take at most so many; 0: all")
    command.add_argument("--verify-md5", action="store_true", help="of the official tars; takes minutes")
    command.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="as for the shards")
    command.add_argument("--subset", action="store_true", help="a few pictures less than all are meant so")
    stage.run(command.parse_args(), index)
