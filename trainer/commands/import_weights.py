"""The making of a run from the weights of a single-device network."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

from preprocess.store import Store
from trainer.config import Config, from_dict, with_changes
from trainer.data.batches import open_training_data
from trainer.errors import UserError, require_output
from trainer.evaluation.pretrained import load
from trainer.interchange import to_towers, weights_file
from trainer.model.grouped import Weights
from trainer.parallel.ending import abort_all_on_error
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER, settle
from trainer.runs import run_folder
from trainer.runs.checkpoint_writer import Writer
from trainer.runs.training_set import TrainingSet
from trainer.training.optimizer import flatten, named_tensors
from trainer.training.schedule import Schedule

if TYPE_CHECKING:
    from trainer.import_weights import Arguments


def read(a: Arguments, store: Store) -> tuple[Config, Weights, TrainingSet]:
    """The settings, the weights and the training set of the run. Raises UserError."""
    weights, about = weights_file.read(a.file)
    if a.bgr:
        weights["conv1.weight"] = to_towers.reverse_channels(weights["conv1.weight"])
    if about:
        trained_on = load(a.file, device="cpu").trained_on
        if trained_on.classes != store.classes:
            raise UserError(
                f"The classes of {a.file} are not those of {a.store} in the same order: its outputs "
                "would be assigned to other classes. Name the store that it was trained on with --store."
            )
        return from_dict(about["config"]), weights, trained_on
    network = to_towers.with_widths_of(a.network, weights)
    return dataclasses.replace(PAPER, network=network, augment=a.augment), weights, TrainingSet.of(store)


def run(a: Arguments) -> None:
    """Make the run."""
    with abort_all_on_error():
        if (a.run / run_folder.CONFIG).exists():
            raise UserError(f"{a.run} is a run already; name another --run.")
        require_output(a.run / run_folder.CONFIG)
        store = open_training_data(a.store)
        config, weights, trained_on = read(a, store)
        config, _ = settle(with_changes(config, store=a.store, folder=None), len(store.train))
        towers = to_towers.build_towers(config, weights, len(store.classes))
        topology = init_topology("cpu", towers=config.network.towers)
        if topology.world.size > 1:
            raise UserError("Weights are imported by one process: leave out mpirun.")
        assert config.optim.batch_size is not None
        schedule = Schedule(config.optim, len(store.train) / config.optim.batch_size)
        state = {"step": 0, "epoch": 0.0, "schedule": schedule.state(), "seed": config.run.seed}
        state |= {"world": 1, "imported": a.file.name}
        run_folder.write_config(a.run, config, store.fingerprint)
        writer = Writer(a.run, topology, config.checkpoint.keep, trained_on)
        writer.save({tower.name: named_tensors(flatten(tower)) for tower in towers}, state)
        writer.finish()
        quoted = shlex.quote(str(a.run))
        print(f"{a.run}: a run of {a.file.name}; its errors: python -m trainer.evaluate --run {quoted}")
