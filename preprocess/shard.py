"""Stage 2: pictures -> shards. One Dask task makes one whole shard, or finds it made.

A shard counts as made when its record is there: written last, after the shard and its partial sums, it says
which plan it belongs to, how long the shard is, its SHA-256, and what had to be repaired. So a task that is
killed or runs twice does no harm, and what is made is not made again.

Usage: python -m preprocess.shard --store PATH [--workers N]
"""

import argparse
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import PIL

from preprocess import stage
from preprocess.errors import UserError
from preprocess.pictures.resize import COMPILED, SIMD
from preprocess.plan import SPLITS, Plan, load, manifest, record_path, work_folder
from preprocess.shards.readback import ReadBack
from preprocess.shards.records import finished
from preprocess.shared.files import remove_leftovers, write_json
from preprocess.workers import compute
from preprocess.workers.cluster import MODES, connected
from preprocess.workers.task import UnreadablePicturesError, make


def make_all(store: Path, plan: Plan, settings: argparse.Namespace) -> tuple[int, dict[str, dict[str, str]]]:
    """Make all shards that can be made; return how many were there before, and what cannot be read.

    What is made is read back at once, by a thread of this process, while the workers make the next ones.

    Raises:
        UserError: a shard could not be written; all others were tried.
    """
    every = [(store, split, shard) for split in SPLITS for shard in range(plan.shards(split))]
    todo = {task: plan.length(*task[1:]) for task in every if not finished(store, plan, *task[1:])}
    unreadable: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    failed: list[str] = []
    read_back = ReadBack(store)
    reads: dict[tuple[str, int], Future[bool]] = {}
    if todo:
        already = sum(plan.counts.values()) - sum(todo.values())
        workers = min(settings.workers, len(todo))
        with (
            connected(settings.dask, workers, settings.dask_address, work_folder(store)) as client,
            ThreadPoolExecutor(1) as reader,
        ):
            for (_, split, shard), result in compute.run(client, make, todo, already):
                if isinstance(result, UnreadablePicturesError):
                    unreadable[split].update(result.args)
                elif isinstance(result, OSError | compute.KilledWorker):
                    failed.append(f"{split} shard {shard} ({compute.reason(result)})")
                elif isinstance(result, BaseException):
                    raise result
                else:
                    stage.log.info("%s shard %d: %s", split, shard, result)
                    reads[split, shard] = reader.submit(read_back.read, split, shard, result)
        failed += [f"{split} shard {shard} ({why})" for (split, shard), why in _spoilt(store, reads).items()]
        read_back.save()
    if failed:
        raise UserError(
            f"shards could not be written, run again when the cause is mended: {', '.join(failed)}"
        )
    return len(every) - len(todo), unreadable


def _spoilt(store: Path, reads: dict[tuple[str, int], Future[bool]]) -> dict[tuple[str, int], str]:
    """Which shards the disk did not return as they were written, and what it did; they must be made again."""
    found = {}
    for shard, read in reads.items():
        if error := read.exception():
            found[shard] = f"it cannot be read back: {error}"
        elif not read.result():
            found[shard] = "the disk returns other bytes than were written to it"
        if shard in found:
            record_path(store, *shard).unlink(missing_ok=True)
    return found


def shards(arguments: argparse.Namespace) -> str:
    """Make all shards that are not made, all that can be made, and only then speak of those that cannot."""
    store: Path = arguments.store.resolve()
    plan = load(store)
    remove_leftovers(store)
    if not SIMD:
        print(
            f"note: Pillow {PIL.__version__} and not Pillow-SIMD is imported: half as fast; run `make setup`"
        )
    elif not COMPILED:
        print("note: preprocess/_square.c is not built: a third slower; `python -m trainer.doctor` says more")
    before, unreadable = make_all(store, plan, arguments)
    if any(unreadable.values()) and arguments.on_error == "skip":
        from preprocess.shards.skip import rearrange  # brings zarr, which no worker should have to import

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
