"""Stage 2: pictures -> shards. One Dask task makes one whole shard, or finds it made.

A shard counts as made when its record is there: written last, after the shard and its partial sums, it says
which plan it belongs to, how long the shard is, its SHA-256, and what had to be repaired. So a task that is
killed or runs twice does no harm, and what is made is not made again.

Usage: python -m preprocess.shard --store PATH [--workers N]
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from preprocess import compute, stage
from preprocess.cluster import MODES, connected
from preprocess.errors import UserError
from preprocess.files import remove_leftovers, write_atomically, write_json
from preprocess.images import MAX_BYTES, UnreadableError, convert
from preprocess.layout import encode_shard, shard_path
from preprocess.plan import (
    SPLITS,
    Plan,
    load,
    manifest,
    pictures,
    record_path,
    shard_identity,
    sums_path,
    work_folder,
)
from preprocess.skip import Skipped, rearrange
from preprocess.statistics import Sums

REPORT_EVERY = 16  # pictures


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a finished shard."""

    identity: str  # of what it was made from
    pictures: int
    bytes: int
    sha256: str
    repairs: list[tuple[str, str]]  # picture's name, what was done


class UnreadablePicturesError(Exception):
    """The pictures, with reasons, for which a shard could not be made."""


def finished(store: Path, plan: Plan, split: str, shard: int) -> Record | None:
    """The record of a shard, None if it must be made (again)."""
    try:
        record = Record(**json.loads(record_path(store, split, shard).read_text()))
        size = shard_path(store, split, shard).stat().st_size
    except (FileNotFoundError, ValueError, TypeError):  # there is none, or it is damaged itself
        return None
    identity = shard_identity(plan, pictures(store, split)[plan.span(split, shard)])
    sums = split != "train" or sums_path(store, shard).is_file()
    return record if sums and (record.identity, record.bytes) == (identity, size) else None


def make(store: Path, split: str, shard: int) -> Record:
    """The task: make a shard if it is not made.

    Raises:
        UnreadablePicturesError: some of its pictures cannot be read; the shard was not written.
        OSError: the disk is full, the source is gone.
    """
    plan = load(store)
    if made := finished(store, plan, split, shard):
        return made
    rows = pictures(store, split)[plan.span(split, shard)]
    sums = Sums(plan.image_size)
    repairs: list[tuple[str, str]] = []
    images = _images(plan, rows, repairs)
    counted = _counted(images, sums) if split == "train" else images
    written = write_atomically(shard_path(store, split, shard), encode_shard(counted, plan.shard_length))
    if split == "train":
        write_atomically(sums_path(store, shard), [sums.pack()])
    identity = shard_identity(plan, rows)
    record = Record(identity, len(rows), written.bytes, written.sha256, repairs)
    write_json(record_path(store, split, shard), asdict(record))
    return record


def _images(
    plan: Plan, rows: NDArray[np.void], repairs: list[tuple[str, str]]
) -> Iterator[NDArray[np.uint8]]:
    """Read and convert picture after picture; raise for all unreadable ones together, at the end."""
    unreadable: list[tuple[str, str]] = []
    for done, row in enumerate(rows, start=1):
        name = os.fsdecode(row["name"])
        try:
            image, named = convert(read(plan, name, row), name, plan.image_size)
            repairs += [(name, repair) for repair in named]
            if not unreadable:
                yield image
        except UnreadableError as error:
            unreadable.append((name, str(error)))
        if done % REPORT_EVERY == 0 or done == len(rows):
            compute.report(done)
    if unreadable:
        raise UnreadablePicturesError(*unreadable)


def read(plan: Plan, name: str, row: np.void) -> bytes:
    """The bytes of a picture, from where it lies."""
    file = Path(plan.source, name if row["file"] < 0 else plan.archives[row["file"]])
    if row["length"] > MAX_BYTES:
        raise UnreadableError(f"has {row['length']} bytes, more than {MAX_BYTES}")
    with file.open("rb", buffering=0) as opened:
        data = os.pread(opened.fileno(), int(row["length"]), int(row["offset"]))
    if len(data) != row["length"]:
        raise UnreadableError("shorter than when it was indexed")
    return data


def _counted(images: Iterator[NDArray[np.uint8]], sums: Sums) -> Iterator[NDArray[np.uint8]]:
    for image in images:
        sums.add(image)
        yield image


def make_all(store: Path, plan: Plan, settings: argparse.Namespace) -> tuple[int, Skipped]:
    """Make all shards that can be made; return how many were there before, and what cannot be read.

    Raises:
        UserError: a shard could not be written; all others were tried.
    """
    every = [(store, split, shard) for split in SPLITS for shard in range(plan.shards(split))]
    todo = {task: plan.length(*task[1:]) for task in every if not finished(store, plan, *task[1:])}
    unreadable: Skipped = {split: {} for split in SPLITS}
    failed: list[str] = []
    if todo:
        already = sum(plan.counts.values()) - sum(todo.values())
        workers = min(settings.workers, len(todo))
        with connected(settings.dask, workers, settings.dask_address, work_folder(store)) as client:
            for (_, split, shard), result in compute.run(client, make, todo, already):
                if isinstance(result, UnreadablePicturesError):
                    unreadable[split].update(result.args)
                elif isinstance(result, OSError | compute.KilledWorker):
                    failed.append(f"{split} shard {shard} ({compute.reason(result)})")
                elif isinstance(result, BaseException):
                    raise result
                else:
                    stage.log.info("%s shard %d: %s", split, shard, result)
    if failed:
        raise UserError(
            f"shards could not be written, run again when the cause is mended: {', '.join(failed)}"
        )
    return len(every) - len(todo), unreadable


def shards(arguments: argparse.Namespace) -> str:
    """Make all shards that are not made, all that can be made, and only then speak of those that cannot."""
    store: Path = arguments.store.resolve()
    plan = load(store)
    remove_leftovers(store)
    if "post" not in PIL.__version__:
        print(
            f"note: Pillow {PIL.__version__} and not Pillow-SIMD is imported: half as fast; run `make setup`"
        )
    before, unreadable = make_all(store, plan, arguments)
    if any(unreadable.values()) and arguments.on_error == "skip":
        plan = rearrange(store, unreadable)
        before, unreadable = make_all(store, plan, arguments)
    total = sum(plan.counts.values())
    named = [f"{name} ({why})" for split in SPLITS for name, why in unreadable[split].items()]
    if named:
        manifest(store, "index").unlink(missing_ok=True)  # look again at the source when they are replaced
        raise UserError(
            f"{len(named)} of {total} pictures cannot be read, replace them and run again, or leave them out "
            f"with --config on_error=skip; all other shards are made: {', '.join(sorted(named))}"
        )
    count = sum(plan.shards(split) for split in SPLITS)
    write_json(manifest(store, "shards"), {"identity": plan.identity, "shards": count, "pictures": total})
    skipped = [f"{name} ({why})" for split in plan.skipped.values() for name, why in split.items()]
    left_out = f"; {len(skipped)} unreadable were left out: {', '.join(sorted(skipped))}" if skipped else ""
    return f"{count} shards with {total} pictures in {store}, {before} of them from before{left_out}"


if __name__ == "__main__":
    command = stage.parser(__doc__)
    command.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; default: all cores")
    command.add_argument("--dask", choices=MODES, default="local", help="where the workers are")
    command.add_argument("--dask-address", default="", help="of a running scheduler, or its file")
    command.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="unreadable pictures")
    stage.run(command.parse_args(), shards)
