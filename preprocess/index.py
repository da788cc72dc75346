"""Stage 1: find the source, choose the images and their order, and create the store without shards.

Usage: python -m preprocess.index --imagenet PATH --store PATH [settings]
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from preprocess import stage
from preprocess.errors import UserError
from preprocess.evaluation_set import Reference, for_evaluation, read_reference
from preprocess.plan import (
    AS_STORED,
    SPLITS,
    UPRIGHT,
    Plan,
    archives_folder,
    aside_path,
    find_plan,
    manifest,
    require_image_size,
    save_plan,
    with_identity,
)
from preprocess.shards.hierarchy import publish
from preprocess.shared.files import write_json
from preprocess.shared.image_files import counted, known_unreadable
from preprocess.shared.program import words
from preprocess.shared.ranges import SEEDS, argument
from preprocess.skip import leave_out
from preprocess.sources.official import check_md5, describe_extent
from preprocess.sources.order import choose, whole_groups
from preprocess.sources.recognise import recognise
from preprocess.sources.stamps import write_stamps
from preprocess.sources.tables import WNID, Source, aside_of, reason_of

AUTO = "auto"


def orientation(setting: str, source: Source, old: Plan | None, reference: Reference | None) -> str:
    """The setting where it is no "auto". Else as an existing store or the reference has it; for ImageNet's
    images as-stored, as is usual; for all others upright, because telephones store photographs sideways."""
    if setting != AUTO:
        return setting
    if known := old or reference:
        return known.orientation
    imagenet = source.class_names is not None or all(map(WNID.fullmatch, source.classes))
    return AS_STORED if imagenet else UPRIGHT


def refuse_other_store(store: Path, old: Plan, new: Plan) -> None:
    """Raise UserError if the store was begun with other images or settings."""
    if old.origin == new.origin:
        return
    for setting in ("image_size", "shard_length", "draft", "orientation", "seed", "counts", "kind"):
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            reason = f"with {setting} {before}, not {after}"
            break
    else:
        reason = "from other images"
    raise UserError(
        f"{store} was made {reason}: name another place with --config store=PATH, or remove {store} first"
    )


def of_part(arguments: argparse.Namespace, source: Source) -> tuple[Source, Reference | None]:
    """The source as the setting `split` wants it, and the classes that it is evaluated with.

    Raises:
        UserError: it has no training part and needs one, or as `read_reference` and `for_evaluation`.
    """
    if arguments.split == "val":
        classes = Path(arguments.classes)
        reference = read_reference(classes, arguments.image_size) if arguments.classes else None
        return for_evaluation(source, reference), reference
    if arguments.classes:
        raise UserError("classes=PATH is for a set that is evaluated with these classes: add split=val")
    if not len(source.train):
        why = f" ({', '.join(source.notes)})" if source.notes else ""
        raise UserError(
            f"{source.root} holds no image for training, only a validation part{why}: name another place "
            "with imagenet=PATH; to evaluate a network on it, add split=val classes=RUN"
        )
    return source, None


def index(arguments: argparse.Namespace) -> str:
    """Find the source, choose images, and create the store; return a summary.

    Raises:
        UserError: there is no source, or the store was begun with other images or settings.
    """
    store: Path = arguments.store
    require_image_size(arguments.image_size)
    old = find_plan(store)
    cache = archives_folder(store)
    source = recognise(arguments.imagenet, cache)
    source, reference = of_part(arguments, source)
    alone = not len(source.train)
    extent = "for evaluation alone" if alone else describe_extent(source, arguments.subset)
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
        shard_length=whole_groups(max(tables.values(), key=len), arguments.shard_length),
        draft=arguments.draft,
        orientation=orientation(arguments.orientation, source, old, reference),
        seed=arguments.seed,
        counts={split: len(tables[split]) for split in SPLITS},
    )
    plan = with_identity(plan, tables)
    plan = replace(plan, origin=plan.identity)
    if old:
        refuse_other_store(store, old, plan)
        if arguments.on_error == "skip":
            plan, tables = leave_out(plan, tables, old.skipped)
    if old and old.identity == plan.identity and (store / "zarr.json").is_file():
        save_plan(store, plan, tables)  # the source may have moved
        write_json(manifest(store, "index"), {"identity": plan.identity, "counts": plan.counts})
    else:
        publish(store, plan, tables)
    write_stamps(store, plan, tables)
    write_json(aside_path(store), aside_of(source))
    for entry in source.ignored:
        stage.log.info("ignored: %s", entry)
    return summary(arguments, source, plan, extent)


def summary(arguments: argparse.Namespace, source: Source, plan: Plan, extent: str) -> str:
    """One line about the source and the images that the store will hold."""
    used = (
        f"{len(plan.classes)} classes, {plan.counts['train']} images for training, "
        f"{plan.counts['val']} for validation{'' if len(source.val) else ' (taken from train)'}"
    )
    if not plan.counts["train"]:
        used = f"{len(plan.classes)} classes, {plan.counts['val']} images"
    turned = "; images are turned as their EXIF data say" if plan.upright else ""
    md5 = "; MD5 sums are those of ILSVRC-2012" if arguments.verify_md5 else ""
    without = len(plan.classes) - len(np.unique(source.train["label"]))
    empty = f"; {without} classes have no image for training" if without and plan.counts["train"] else ""
    formats = Counter(known_unreadable(reason_of(entry)[0]) for entry in source.ignored)
    del formats[""]
    unreadable = f"; {counted(formats)}" if formats else ""
    count = len(source.ignored)
    first = ", ".join(source.ignored[:3]) + (", ..." if source.ignored[3:] else "")
    ignored = f"; {count} {'entry was' if count == 1 else 'entries were'} ignored: {first}" if count else ""
    hidden = f"; hidden entries left aside: {source.hidden}" if source.hidden else ""
    other = plan.shard_length != arguments.shard_length
    length = f"; {plan.shard_length} images a shard, so that no row group is read twice" if other else ""
    notes = "".join(f"; {note}" for note in source.notes)
    text = f"{used}{turned}{empty}{length}{notes}{ignored}{unreadable}{hidden}"
    return f"{arguments.imagenet}: {source.kind}, {extent}{md5}; {text}"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    command = stage.parser(__doc__)
    command.add_argument("--imagenet", type=Path, required=True, help="folder or archive with the images")
    command.add_argument(
        "--split",
        choices=("all", "val"),
        default="all",
        help="val: all images are for evaluation; a training part is not made",
    )
    command.add_argument(
        "--classes",
        default="",
        help="with --split val: a store, run, checkpoint or exported network, whose classes the set's are",
    )
    command.add_argument("--image-size", type=int, default=256, help="side of the stored images, pixels")
    command.add_argument(
        "--orientation",
        choices=(AUTO, AS_STORED, UPRIGHT),
        default=AUTO,
        help="upright: turn images as their EXIF data say; auto: for class folders that are not ImageNet's",
    )
    command.add_argument(
        "--shard-length", type=argument(int, "[1, 65536]"), default=1024, help="images a shard"
    )
    command.add_argument("--draft", action="store_true", help="let the JPEG decoder shrink large images")
    command.add_argument(
        "--seed", type=argument(int, SEEDS), default=2012, help="of the order and of every choice"
    )
    command.add_argument(
        "--validation-fraction",
        type=argument(float, "[0, 1)"),
        default=0.1,
        help="share taken from train without a val part",
    )
    command.add_argument(
        "--train-per-class",
        type=argument(int, "[0, 1e9]"),
        default=0,
        help="most images of a class; 0: no limit",
    )
    command.add_argument(
        "--validation-per-class", type=argument(int, "[0, 1e9]"), default=0, help="as --train-per-class"
    )
    command.add_argument("--verify-md5", action="store_true", help="check the official tars; takes minutes")
    command.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="at unreadable images")
    command.add_argument("--subset", action="store_true", help="a few missing images are no error")
    return command


if __name__ == "__main__":
    stage.run(parser().parse_args(words()), index)
