"""Fine-tuning: a run that begins with the weights of a trained network (`--init-from`).

Rank 0 reads the network, compares it with the run's settings and its store, and sends the weights to all
ranks. The network's own mean image is subtracted, since conv1 learned with it, and travels with the run's
checkpoints.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from preprocess.store import Store
from trainer.config import Config, flag
from trainer.errors import UserError
from trainer.evaluation import pretrained
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.model.grouped import Weights
from trainer.model.network import TOWERS
from trainer.parallel.agreement import on_root
from trainer.recipes import OF_INITIAL_WEIGHTS, OF_INPUT
from trainer.runs.formats import InitFrom
from trainer.runs.training_set import require_size
from trainer.training.step import Trainer


@dataclass(frozen=True, kw_only=True)
class InitialNetwork:
    """What a run takes from a trained network."""

    towers: list[Weights]
    """Tower a's parameters, float32, then tower b's; without those that are new."""
    mean_SS3: NDArray[np.float32]
    record: InitFrom
    sentence: str
    """What is taken and what is new."""


def read(config: Config, store: Store) -> InitialNetwork:
    """Read the network that `--init-from` names. Raises UserError where the run cannot begin with it."""
    assert config.run.init_from is not None
    network = pretrained.load(config.run.init_from, device="cpu")
    _require_settings(network, config)
    require_size(store, network.trained_on)
    towers = [dict(tower.state_dict()) for tower in network.towers]
    if config.run.classes == "new":
        towers = [{name: w for name, w in tower.items() if not name.startswith("fc8.")} for tower in towers]
        taken = f"conv1 to fc7 are its own, fc8 is new for {len(store.classes):,} classes"
    else:
        _reorder_classes(towers, network, store)
        taken = f"all layers are its own, with its {len(store.classes):,} classes"
    scaled = _scale_for_dropout(towers, network.config, config)
    name = network.source.name if network.run is None else f"{network.run.name}/{network.source.name}"
    step: int = network.state.get("step", 0)
    return InitialNetwork(
        towers=towers,
        mean_SS3=network.mean_SS3,
        record={"name": name, "step": step, "fingerprint": network.fingerprint},
        sentence=f"begins with {network.source} (step {step}): {taken}{scaled}; "
        f"its mean image is subtracted, not that of {store.path}",
    )


def _require_settings(network: PretrainedNetwork, config: Config) -> None:
    """Raise UserError for settings with which the weights would compute something else."""
    wrong = []
    for group in ("network", "augment"):
        theirs, ours = getattr(network.config, group), getattr(config, group)
        for field in dataclasses.fields(ours):
            name = field.name
            fixed = name in OF_INPUT if group == "augment" else name not in ("dropout", *OF_INITIAL_WEIGHTS)
            before, now = getattr(theirs, name), getattr(ours, name)
            if fixed and before != now:
                wrong.append(f"{flag(name)} is {before} there, {now} here")
    if wrong:
        raise UserError(
            f"The weights of {network.source} belong to other settings: {'; '.join(wrong)}. Leave these "
            "flags out: with --init-from the network's own settings are taken."
        )


def _reorder_classes(towers: list[Weights], network: PretrainedNetwork, store: Store) -> None:
    """Order fc8's outputs as the store's classes. Raises UserError where these are not the network's."""
    if set(store.classes) != set(network.classes):
        known = len(set(store.classes) & set(network.classes))
        raise UserError(
            f"{store.path} has {len(store.classes):,} classes, and {network.source} has "
            f"{len(network.classes):,}, {known:,} of them by the same name: add --classes new, which draws "
            "fc8 anew for the store's classes."
        )
    order = [network.classes.index(name) for name in store.classes]
    for tower in towers:
        tower |= {name: w[order] for name, w in tower.items() if name.startswith("fc8.")}


def _scale_for_dropout(towers: list[Weights], theirs: Config, ours: Config) -> str:
    """For another p of the paper's dropout, scale the layers after it: evaluation multiplies their inputs by
    1 - p. Returns a clause that says so."""
    factor = (1 - theirs.network.dropout) / (1 - ours.network.dropout)
    if ours.network.inverted_dropout or factor == 1:
        return ""
    for tower in towers:
        tower |= {name: w * factor for name, w in tower.items() if name in ("fc7.weight", "fc8.weight")}
    return f", the weights after dropout times {factor:g} for --dropout {ours.network.dropout:g}"


def distribute(trainer: Trainer, towers: list[Weights] | None) -> None:
    """Copy the weights, which rank 0 has, into the towers of all ranks. Every rank calls it."""
    world, own = trainer.topology.world, trainer.tensors()
    shapes = on_root(world, lambda: [{n: tuple(w.shape) for n, w in tower.items()} for tower in towers or ()])
    for index, tower in enumerate(shapes):
        for name, shape in tower.items():
            array = towers[index][name].contiguous().numpy() if towers else np.empty(shape, np.float32)
            if world.size > 1:
                world.Bcast(array)
            if TOWERS[index] in own:
                with torch.no_grad():
                    own[TOWERS[index]][name].copy_(torch.from_numpy(array))
    trainer.after_loading()
