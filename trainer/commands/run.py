"""The training of a run, from the store to its end or to a request to stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from preprocess.store import Store
from trainer.config import GROUPS, Config, flag, to_dict, with_changes
from trainer.data.batches import open_training_data
from trainer.figures import drawing
from trainer.parallel.agreement import check_same_on_all_ranks, on_root
from trainer.parallel.device import resolve_precision
from trainer.parallel.ending import abort_all_on_error, end_all
from trainer.parallel.topology import Topology, init_topology
from trainer.parallel.watchdog import Watchdog
from trainer.recipes import settle
from trainer.runs import checkpoint, resuming, run_folder, summary
from trainer.runs.lock import RunLock
from trainer.runs.resuming import Start
from trainer.training import backends, dry_run, fine_tuning
from trainer.training.fine_tuning import InitialNetwork
from trainer.training.loop import COMPLETE, Loop
from trainer.training.signals import Requests
from trainer.training.step import Trainer


def train(config: Config, topology: Topology, requests: Requests) -> int:
    """One start of a run, from the store to its end or to a request to stop; returns the exit code.

    All ranks must hold one store and one configuration. Rank 0 looks at the run's folder and tells the rest.
    """
    watchdog = Watchdog(topology, config.hardware.timeout, end_all)
    watchdog.mark("opening the store")
    store = open_training_data(config.run.store, config.augment.crop_size)
    watchdog.mark("comparing the ranks' settings", waiting=True)
    check_same_on_all_ranks(topology, facts(config, store))
    config, reasons = settle(config, len(store.train))
    locks: list[RunLock] = []  # rank 0's
    initial: list[InitialNetwork] = []  # rank 0's too

    def look() -> Start:
        run, continued = resuming.choose(config, store)
        locks.append(RunLock(run))
        Requests.clear(run)  # what is asked from now on is meant for this start
        start = resuming.find(run, continued, store)
        if config.run.init_from and not start.found:
            initial.append(fine_tuning.read(start.config, store))
            start = replace(start, mean_SS3=initial[0].mean_SS3)
        return start

    try:
        watchdog.mark("rank 0's look at the run's folder", waiting=not topology.is_root)
        start = on_root(topology.world, look)
        watchdog.mark("building the network")
        setting = start.config.hardware.precision
        precision = on_root(topology.world, lambda: resolve_precision(setting, topology.device))
        # One precision for all ranks, whatever their processors.
        config = with_changes(start.config, precision=precision)
        trainer = Trainer(config, topology, len(store.classes))
        if start.mean_SS3 is not None:
            store = replace(store, mean=start.mean_SS3)
        watchdog.mark("rank 0's writing of the configuration", waiting=not topology.is_root)
        changes = on_root(topology.world, lambda: resuming.begin(start, config, store))
        lock = locks[0] if locks else None
        loop = Loop(config, store, trainer, start.run, requests, watchdog, lock)
        over = f", exchanges by {trainer.transport.name}" if trainer.transport.name else ""
        loop.say(f"{topology.describe()}, {precision}{over}")
        loop.say(backends.describe(trainer))
        for line in [*trainer.left_out, *reasons, *summary.settings(config), *start.remarks, *changes]:
            loop.say(line)
        if start.found:
            watchdog.mark("reading the checkpoint", waiting=topology.pair > 0)
            loop.restore(start.found)
        elif config.run.init_from:
            watchdog.mark("rank 0's sending of the initial network", waiting=not topology.is_root)
            fine_tuning.distribute(trainer, initial[0].towers if initial else None)
            while initial:
                network = initial.pop()
                loop.state.init_from = network.record
                loop.say(f"{start.run}: a new run, which {network.sentence}")
        else:
            loop.say(f"{start.run}: a new run")
        code = loop.train(start.changed)
        if code == COMPLETE:
            on_root(topology.world, lambda: report(config, start.run, store, loop))
        return code
    finally:
        watchdog.close()
        for lock in locks:
            lock.release()


def report(config: Config, run: Path, store: Store, loop: Loop) -> None:
    """Draw the figures of a complete run, and print its errors next to the published ones."""
    if config.run.figures:
        drawing.at_the_end(run, config.run.store, loop.topology.device.type, loop.say)
    classes, images = len(store.classes), len(store.val)
    for line in summary.ending(run, run / run_folder.LOG, loop.state.step, classes, images):
        loop.say(line)


def facts(config: Config, store: Store) -> dict[str, str]:
    """What must be the same on all ranks, under names for a sentence."""
    settings = {
        flag(name): json.dumps(value) for part in GROUPS for name, value in to_dict(config)[part].items()
    }
    versions = {f"the version of {name}": version for name, version in checkpoint.versions().items()}
    return (
        {"the store": store.fingerprint, "the number of classes": str(len(store.classes))}
        | versions
        | settings
    )


def run(config: Config) -> NoReturn:
    """Train, or estimate what training needs; ends with the exit code."""
    with abort_all_on_error(resumable=True):
        requests = Requests()
        topology = init_topology(config.hardware.device, towers=config.network.towers)
        if config.run.dry_run:
            dry_run.show(config, topology)
            raise SystemExit(0)
        code = train(config, topology, requests)
        topology.world.Barrier()
    raise SystemExit(code)
