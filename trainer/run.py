"""Train: the loop and its command.

    mpirun -n 8 python -m trainer.run         four pairs of towers
    mpirun -n 2 python -m trainer.run         one pair
    python -m trainer.run                     both towers in one process

Exit code 0: complete. 75: saved, and to be continued by the same command. Anything else: failed.
SIGUSR1, SIGTERM, SIGHUP or a file `stop` in the run's folder saves and ends it; a file `save` saves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from preprocess.store import Store
from trainer import checkpoint, dryrun, runs, summary
from trainer.cli import parse_config
from trainer.config import Config, to_dict
from trainer.data import open_data
from trainer.errors import UserError
from trainer.loop import Loop
from trainer.recipes import settle
from trainer.requests import Requests
from trainer.step import Trainer
from trainer.topology import Topology, all_or_none, arrange, from_root, refuse_differences


def begin(config: Config, topology: Topology, requests: Requests) -> Loop:
    """Everything before the first step: one store, one configuration, one folder for all ranks."""
    store = open_data(config.session.store)
    refuse_differences(topology, facts(config, store))
    config, reasons = settle(config, len(store.train))
    trainer = Trainer(config, topology, len(store.classes))
    run = config.session.run or (runs.choose(config) if topology.leads else None)
    loop = Loop(config, store, trainer, topology.world.bcast(run), requests)
    loop.say(f"{topology.describe()}, {trainer.precision}")
    for line in [*reasons, *summary.settings(config)]:
        loop.say(line)
    _resume(loop)
    return loop


def _resume(loop: Loop) -> None:
    """Go on from a checkpoint where there is one; else start anew and write down how."""
    run, config, topology = loop.run, loop.config, loop.topology
    wish, started = config.session.resume, (run / runs.CONFIG).exists()
    topology.world.Barrier()  # all ranks have looked before rank 0 writes
    if wish == "never" and started:
        raise UserError(f"{run} exists already; name another --run, or leave out --resume never.")
    if started:
        runs.refuse_if_different(run, config, loop.store.fingerprint)
    which = wish if wish not in ("auto", "never") else checkpoint.LATEST
    if which != checkpoint.LATEST or (started and checkpoint.exists(run)):
        # One rank verifies, all read.
        verified, remarks = from_root(topology.world, lambda: checkpoint.find(run, which))
        for remark in remarks:
            loop.say(remark)
        loop.restore(verified)
    else:
        loop.say(f"{run}: a new run")
    if topology.leads:
        (run / runs.COMPLETE).unlink(missing_ok=True)
        loop.requests.clear(run)
        runs.write_config(run, config, loop.store.fingerprint)


def facts(config: Config, store: Store) -> dict[str, str]:
    """What must be the same on all ranks, under names for a sentence."""
    settings = {
        f"--{name.replace('_', '-')}": json.dumps(value)
        for part in ("network", "augment", "optim", "session")
        for name, value in to_dict(config)[part].items()
    }
    versions = {f"the version of {name}": version for name, version in checkpoint.versions().items()}
    return (
        {"the store": store.fingerprint, "the number of classes": str(len(store.classes))}
        | versions
        | settings
    )


def main(argv: Sequence[str] | None = None) -> None:
    with all_or_none(resumable=True):
        requests = Requests()
        config = parse_config(argv)
        topology = arrange(config.session.device, towers=config.network.towers)
        if config.session.dry_run:
            dryrun.show(config, topology)
            return
        code = begin(config, topology, requests).train()
        topology.world.Barrier()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
