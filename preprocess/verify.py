"""Stage 4: read every shard back, compare it with its record, and mark the store as finished.

With --unread, shards are left out that stage 2 has read back and that are unchanged since.

Damage is named by shard and by image. The records of damaged shards are removed: `snakemake preprocess` then
makes these shards, the metadata and the statistics again, and no other shard.

With --labels, the labels of a finished store are compared with those of ILSVRC-2012's devkit instead,
wherever the name of an image tells its class. Nothing is written.

Usage: python -m preprocess.verify --store PATH [--workers N] [--sha256] [--unread]
       python -m preprocess.verify --store PATH --labels DEVKIT
"""

import argparse
import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from preprocess import stage
from preprocess.errors import UserError
from preprocess.plan import (
    SPLITS,
    Plan,
    PlanDamagedError,
    damaged_plan_path,
    load_plan,
    load_table,
    manifest,
    plan_path,
    record_path,
    with_identity,
)
from preprocess.plan import repair as remedy
from preprocess.shards import layout
from preprocess.shards.checksums import crc32c_of, sha256_of
from preprocess.shards.readback import ReadBack
from preprocess.shards.records import Record, finished_record
from preprocess.shared import progress
from preprocess.shared.cores import available_cores
from preprocess.shared.files import remove_leftovers, write_json
from preprocess.shared.program import words
from preprocess.shared.ranges import argument
from preprocess.sources.devkit import read_devkit
from preprocess.sources.labels import compare, ids_of
from preprocess.store import StoreError, open_store

Records = dict[tuple[str, int], Record]


def damage(
    store: Path, plan: Plan, shard: tuple[str, int], record: Record | None, against_sha256: bool
) -> str:
    """Describe the damage of a shard, "" for a sound one."""
    path = layout.shard_path(store, *shard)
    if not path.is_file():
        return f"{path} is missing"
    if record is None:
        return f"{path} does not have the size in its record, or has no record"
    if crc32c_of(path) == record.crc32c and (not against_sha256 or sha256_of(path) == record.sha256):
        return ""
    slots = layout.damaged_images(path, record.pictures, plan.image_size)
    rows = load_table(store, shard[0])[plan.span(*shard)]
    names = [os.fsdecode(rows["name"][slot]) for slot in slots]
    return f"{path} has changed since it was written, in {', '.join(names) or 'its index'}"


def sound_plan(store: Path) -> Plan:
    """The plan, once it and the tables are known to be sound.

    Raises:
        UserError: they are not; the next run writes them again, and keeps the shards that fit them.
    """
    try:
        plan = load_plan(store)
        tables = {split: load_table(store, split) for split in SPLITS}
        lengths = {split: len(table) for split, table in tables.items()}
        if lengths == plan.counts and with_identity(plan, tables).identity == plan.identity:
            return plan
        reason = f"{plan_path(store)} and its tables disagree"
    except PlanDamagedError as error:
        reason = str(error).partition(": run ")[0]
    mark_unfinished(store, [])
    if plan_path(store).is_file():
        plan_path(store).replace(damaged_plan_path(store))
    raise UserError(
        f"the plan must be made again, run `snakemake preprocess` with the settings of this store ({reason})"
    )


def mark_unfinished(store: Path, shards: list[tuple[str, int]]) -> None:
    """Have the next run make these shards, the metadata, the labels and the statistics again."""
    (store / "zarr.json").unlink(missing_ok=True)
    for split, shard in shards:
        record_path(store, split, shard).unlink(missing_ok=True)
    for name in ("verified", "statistics", "shards", "index"):
        manifest(store, name).unlink(missing_ok=True)


def mark_finished(store: Path, plan: Plan, records: Records) -> str:
    """Write the attributes of the splits, then those of the root; return the fingerprint.

    The fingerprint is a hash of the plan's identity and of all shards' SHA-256: 16 hexadecimal digits.
    """
    content = hashlib.sha256(plan.identity.encode())
    repairs: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        of_split = [records[split, shard] for shard in range(plan.shards(split))]
        named: dict[str, list[str]] = {}
        for record in of_split:
            content.update(record.sha256.encode())
            for name, repair in record.repairs:
                named.setdefault(repair, []).append(name)
        named = {repair: sorted(names) for repair, names in sorted(named.items())}
        repairs[split] = {repair: len(names) for repair, names in named.items()}
        shards: dict[str, Any] = {
            "shard_bytes": [record.bytes for record in of_split],
            "shard_sha256": [record.sha256 for record in of_split],
        }
        skipped = plan.skipped.get(split, {})
        layout.set_attributes(store, {"repairs": named, "skipped": skipped, **shards}, group=split)
    attributes = {
        "source": {"kind": plan.kind, "path": plan.source},
        "counts": plan.counts,
        "classes": plan.classes,
        "class_names": plan.class_names,
        "image_size": plan.image_size,
        "shard_length": plan.shard_length,
        "draft": plan.draft,
        "orientation": plan.orientation,
        "seed": plan.seed,
        "repairs": repairs,
        "skipped": {split: len(plan.skipped.get(split, {})) for split in SPLITS},
        "versions": {"pillow": PIL.__version__, "numpy": np.__version__, "zarr": version("zarr")},
        "fingerprint": content.hexdigest()[:16],
    }
    layout.set_attributes(store, attributes)
    return content.hexdigest()[:16]


def verify(arguments: argparse.Namespace) -> str:
    """Read all shards back and mark the store as finished; return a summary.

    Raises:
        UserError: something is damaged; all of it is listed.
    """
    store: Path = arguments.store
    plan = sound_plan(store)
    remove_leftovers(store)
    shards = [(split, shard) for split in SPLITS for shard in range(plan.shards(split))]
    records = {shard: finished_record(store, plan, *shard) for shard in shards}
    total = sum(plan.counts.values())
    wrong: dict[tuple[str, int], str] = {}
    read_back = ReadBack(store)

    def check(shard: tuple[str, int]) -> str:
        if arguments.unread and records[shard] and read_back.unchanged(*shard):
            return ""
        return damage(store, plan, shard, records[shard], arguments.sha256)

    with (
        ThreadPoolExecutor(arguments.workers) as pool,
        closing(progress.images(total, 0, "verify")) as bar,
    ):
        results = pool.map(check, shards)
        for shard, found in zip(shards, results, strict=True):
            bar.update(plan.length(*shard))
            if found:
                wrong[shard] = found
    if wrong:
        mark_unfinished(store, list(wrong))
        raise UserError(
            f"{len(wrong)} of {len(shards)} shards must be made again, run `snakemake preprocess`: "
            + "; ".join(wrong.values())
        )
    sound = {shard: record for shard, record in records.items() if record is not None}
    fingerprint = mark_finished(store, plan, sound)
    try:
        opened = open_store(store)
        for split in (opened.train, opened.val):
            split.read(np.array([0, len(split) - 1])[: len(split)])
    except StoreError as error:
        mark_unfinished(store, [])
        reason = str(error).partition(": run ")[0]
        raise UserError(f"metadata must be made again, run `snakemake preprocess` ({reason})") from error
    repaired = Counter(repair for record in sound.values() for _, repair in record.repairs)
    write_json(manifest(store, "verified"), {"identity": plan.identity, "fingerprint": fingerprint})
    listed = ", ".join(f"{count} {repair}" for repair, count in sorted(repaired.items())) or "none"
    return f"{store} is finished and verified, fingerprint {fingerprint}; repaired images: {listed}"


def verify_labels(arguments: argparse.Namespace) -> str:
    """Compare the labels with the devkit's; return a summary.

    Raises:
        UserError: some contradict it, the devkit cannot be read, or no image's name tells a class.
        StoreError: the store is not finished.
    """
    opened = open_store(arguments.store)
    try:
        devkit = read_devkit(arguments.labels)
    except OSError as error:
        raise UserError(
            f"the devkit {arguments.labels} cannot be opened ({error.strerror}): name "
            f"ILSVRC2012_devkit_t12.tar.gz, or the folder that it holds, after --labels"
        ) from error
    names = [
        os.fsdecode(name) for split in SPLITS for name in load_table(arguments.store, split)["name"].tolist()
    ]
    labels = [label for split in (opened.train, opened.val) for label in split.labels.tolist()]
    if len(names) != len(labels):
        raise PlanDamagedError(
            f"{arguments.store} has {len(labels)} images and its tables {len(names)}: "
            f"{remedy(arguments.store)}"
        )
    ids = ids_of(opened.classes, opened.class_names, devkit)
    found = compare(zip(names, labels, strict=True), ids, devkit)
    counts = (
        f"{found.agreed:,} labels agree with {arguments.labels}, {found.contradicting:,} contradict it, "
        f"and {found.untold:,} images have names that tell no class"
    )
    if found.contradicting:
        more = "; ..." if found.contradicting > len(found.first) else ""
        raise UserError(f"{counts}; sort these images into their classes: {'; '.join(found.first)}{more}")
    if not found.agreed:
        raise UserError(f"{counts}: check the labels by eye, with `python -m preprocess.report --classes`")
    return f"{arguments.store}: {counts}"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    command = stage.parser(__doc__)
    command.add_argument(
        "--workers",
        type=argument(int, "[1, 65536]"),
        default=available_cores(),
        help="threads; default: all cores",
    )
    command.add_argument(
        "--sha256",
        action="store_true",
        help="compare SHA-256 too: it finds changes made on purpose; CRC-32C finds accidental ones",
    )
    command.add_argument(
        "--unread",
        action="store_true",
        help="leave out shards that stage 2 has read back and that are unchanged since",
    )
    command.add_argument(
        "--labels",
        type=Path,
        metavar="DEVKIT",
        help="compare the labels of a finished store with this devkit of ILSVRC-2012, and do nothing else",
    )
    return command


if __name__ == "__main__":
    arguments = parser().parse_args(words())
    if arguments.labels:
        stage.run(arguments, verify_labels, writes=False)
    else:
        stage.run(arguments, verify)
