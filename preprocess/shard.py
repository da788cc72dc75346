"""Stage 2: images -> shards. One Dask task makes one whole shard.

A shard is finished when its record is there. The record is written last, after the shard and its pixel sums.
It holds the identity of the shard's rows, the shard's length and checksums, and the repairs of its images.
So a task may be killed or run twice, and a finished shard is not made again.

Usage: python -m preprocess.shard --store PATH [--workers N]
"""

import argparse
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import PIL

from preprocess import stage
from preprocess.errors import UserError
from preprocess.pictures.resize import COMPILED, SIMD
from preprocess.plan import SPLITS, Plan, Skipped, load_plan, manifest, record_path, work_folder
from preprocess.shards.readback import ReadBack
from preprocess.shards.records import finished_record
from preprocess.shared.cores import available_cores
from preprocess.shared.files import remove_leftovers, write_json
from preprocess.shared.program import words
from preprocess.shared.ranges import argument
from preprocess.workers import compute
from preprocess.workers.cluster import MODES, connected
from preprocess.workers.task import UnreadableImagesError, make_shard


def make_all(store: Path, plan: Plan, settings: argparse.Namespace) -> tuple[int, Skipped]:
    """Make all shards that can be made.

    A thread of this process reads each new shard back while the workers make the next ones.

    Returns:
        The number of shards that were finished before, and the unreadable images with reasons.

    Raises:
        UserError: a shard could not be written or read back; all others were tried.
    """
    every = [(store, split, shard) for split in SPLITS for shard in range(plan.shards(split))]
    todo = {task: plan.length(*task[1:]) for task in every if not finished_record(store, plan, *task[1:])}
    unreadable: Skipped = {split: {} for split in SPLITS}
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
            for (_, split, shard), result in compute.run_tasks(client, make_shard, todo, already):
                if isinstance(result, UnreadableImagesError):
                    unreadable[split].update(result.args)
                elif isinstance(result, OSError | compute.KilledWorker):
                    failed.append(f"{split} shard {shard} ({compute.reason(result)})")
                elif isinstance(result, BaseException):
                    raise result
                else:
                    stage.log.info("%s shard %d: %s", split, shard, result)
                    reads[split, shard] = reader.submit(read_back.read, split, shard, result)
        bad = _failed_reads(store, reads)
        failed += [f"{split} shard {shard} ({why})" for (split, shard), why in bad.items()]
        read_back.save()
    if failed:
        raise UserError(f"shards could not be written, remove the cause and run again: {', '.join(failed)}")
    return len(every) - len(todo), unreadable


def _failed_reads(store: Path, reads: dict[tuple[str, int], Future[bool]]) -> dict[tuple[str, int], str]:
    """The shards that cannot be read back as they were written, with reasons. Their records are removed."""
    found = {}
    for shard, read in reads.items():
        if error := read.exception():
            found[shard] = f"it cannot be read back: {error}"
        elif not read.result():
            found[shard] = "the disk returns other bytes than were written"
        if shard in found:
            record_path(store, *shard).unlink(missing_ok=True)
    return found


def shards(arguments: argparse.Namespace) -> str:
    """Make all unfinished shards; return a summary.

    Raises:
        UserError: images cannot be read, or shards cannot be written; all other shards were made first.
    """
    store: Path = arguments.store.resolve()
    plan = load_plan(store)
    remove_leftovers(store)
    if not SIMD:
        print(f"note: this is Pillow {PIL.__version__}, half as fast as Pillow-SIMD: run `make setup`")
    elif not COMPILED:
        print(
            "note: preprocess/pictures/_square.c is not built, which makes this a third slower: "
            "`python -m trainer.doctor` tells what to do"
        )
    before, unreadable = make_all(store, plan, arguments)
    if any(unreadable.values()) and arguments.on_error == "skip":
        from preprocess.skip import leave_out_of_store  # imports zarr, which workers need not load

        plan = leave_out_of_store(store, unreadable)
        before, unreadable = make_all(store, plan, arguments)
    total = sum(plan.counts.values())
    named = [f"{name} ({why})" for split in SPLITS for name, why in unreadable[split].items()]
    if named:
        manifest(store, "index").unlink(missing_ok=True)  # stage 1 must see the replaced images
        raise UserError(
            f"{len(named)} of {total} images cannot be read, replace them and run again, or leave them out "
            f"with --config on_error=skip; all other shards are made: {', '.join(sorted(named))}"
        )
    count = sum(plan.shards(split) for split in SPLITS)
    write_json(manifest(store, "shards"), {"identity": plan.identity, "shards": count, "pictures": total})
    skipped = [f"{name} ({why})" for split in plan.skipped.values() for name, why in split.items()]
    left_out = f"; {len(skipped)} unreadable were left out: {', '.join(sorted(skipped))}" if skipped else ""
    return f"{count} shards with {total} images in {store}, {before} of them made before{left_out}"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    command = stage.parser(__doc__)
    command.add_argument(
        "--workers",
        type=argument(int, "[1, 65536]"),
        default=available_cores(),
        help="processes; default: all cores",
    )
    command.add_argument("--dask", choices=MODES, default="local", help="where the workers run")
    command.add_argument("--dask-address", default="", help="of a running scheduler, or its file")
    command.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="at unreadable images")
    return command


if __name__ == "__main__":
    stage.run(parser().parse_args(words()), shards)
