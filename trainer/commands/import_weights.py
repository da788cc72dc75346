"""The making of a run from the weights of another program's network."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from preprocess.store import Store, ilsvrc2012, in_words
from trainer.config import AugmentConfig, Config, NetworkConfig, flag, from_dict, with_changes
from trainer.data import augmentation
from trainer.data.batches import open_data, open_training_data
from trainer.errors import UserError, require_output
from trainer.evaluation.pretrained import load
from trainer.interchange import class_list, known, mean_image, to_towers, weights_file
from trainer.interchange.layers import Described
from trainer.interchange.weights_file import Contents
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

IMAGES = 1_281_167
"""Of ILSVRC-2012's training part: a plan of training for a network that is imported without a store."""
SIDE = 256
"""Pixels along the images of other programs."""


def run(a: Arguments) -> None:
    """Make the run."""
    with abort_all_on_error():
        if (a.run / run_folder.CONFIG).exists():
            raise UserError(f"{a.run} is a run already; name another --run.")
        require_output(a.run / run_folder.CONFIG)
        store = open_data(a.store) if a.store else None
        contents = weights_file.read(a.file)
        if contents.about:
            config, trained_on = _own(a, contents, store)
        else:
            config, trained_on = _foreign(a, contents, store)
        if a.store:
            config = with_changes(config, store=a.store)
        images = len(store.train) if store and len(store.train) else IMAGES
        config, _ = settle(with_changes(config, folder=None), images)
        towers = to_towers.build_towers(config, contents.weights, len(trained_on.classes))
        topology = init_topology("cpu", towers=config.network.towers)
        if topology.world.size > 1:
            raise UserError("Weights are imported by one process: leave out mpirun.")
        assert config.optim.batch_size is not None
        schedule = Schedule(config.optim, images / config.optim.batch_size)
        state = {"step": 0, "epoch": 0.0, "schedule": schedule.state(), "seed": config.run.seed}
        state |= {"world": 1, "imported": a.file.name}
        # Without its store's mean image the network cannot be trained on in this folder.
        fingerprint = store.fingerprint if store and trained_on.fingerprint else trained_on.fingerprint
        run_folder.write_config(a.run, config, fingerprint)
        writer = Writer(a.run, topology, config.checkpoint.keep, trained_on)
        writer.save({tower.name: named_tensors(flatten(tower)) for tower in towers}, state)
        writer.finish()
        quoted = shlex.quote(str(a.run))
        print(f"{a.run}: a run of {a.file.name}; its errors: python -m trainer.evaluate --run {quoted}")


def _own(a: Arguments, contents: Contents, store: Store | None) -> tuple[Config, TrainingSet]:
    """The settings and the training set of an export of this project. Raises UserError."""
    given = [name for name in ("mean", "classes", "like") if getattr(a, name)]
    given += ["channels"] if a.channels != "auto" else []
    _refuse(a, "is an export of this project", given)
    trained_on = load(a.file, device="cpu").trained_on
    if store and trained_on.classes != store.classes:
        raise UserError(
            f"The classes of {a.file} are not those of {a.store} in the same order: its outputs would be "
            "assigned to other classes. Name the store that it was trained on with --store, or none."
        )
    assert contents.about
    return from_dict(contents.about["config"]), trained_on


def _foreign(a: Arguments, contents: Contents, store: Store | None) -> tuple[Config, TrainingSet]:
    """The settings and the training set of another program's network; prints what differs. Raises UserError.

    conv1's weights in `contents` become those for red, green, blue.
    """
    described = contents.described or (known.LIKE[a.like] if a.like else None)
    if contents.described:
        _refuse(a, "has its network's layers", ["like"] if a.like else [])
    elif a.like:
        _refuse(a, f"is imported like {a.like}", [])
    weights = contents.weights
    network, augment = (described.network, described.augment) if described else (a.network, a.augment)
    config = dataclasses.replace(PAPER, network=to_towers.with_widths_of(network, weights), augment=augment)
    bgr = a.channels == "bgr" or (a.channels == "auto" and described is not None)
    if bgr:
        weights["conv1.weight"] = to_towers.reverse_channels(weights["conv1.weight"])
        known_by = " (assumed: all of Caffe's networks do)" if a.channels == "auto" else ""
        print(
            f"channels: conv1 read blue, green, red{known_by}; its weights are reversed for red, green, blue"
        )
    side_assumed = described is not None and described.side_assumed
    for line in known.differences(config.network, config.augment, side_assumed):
        print(line)
    trained_on = _training_set(a, described, store, len(weights["fc8.bias"]), bgr)
    augmentation.require_size(len(trained_on.mean_SS3), augment.crop_size, a.store or a.file)
    if described:
        print(known.WARPED)
    return config, trained_on


def _refuse(a: Arguments, why: str, names: list[str]) -> None:
    """Raise UserError for flags that the file's own settings contradict: these, and those of the network."""
    flags = [flag(name) for name in names]
    for given, default in ((a.network, NetworkConfig(inverted_dropout=True)), (a.augment, AugmentConfig())):
        for field in dataclasses.fields(default):
            value = getattr(given, field.name)
            if value != getattr(default, field.name):
                flags.append(flag(f"no_{field.name}" if value is False else field.name))
    if flags:
        raise UserError(f"{a.file} {why}, which settles this: leave out {', '.join(flags)}.")


def _training_set(
    a: Arguments, described: Described | None, store: Store | None, outputs: int, bgr: bool
) -> TrainingSet:
    """Mean image and classes; prints where they come from. Raises UserError where there are none."""
    words = a.mean or (tuple(map(str, described.mean_3)) if described else ())
    mean_SS3, source = _mean(a, words, store, bgr)
    classes, names, of = _classes(a, store, outputs)
    if len(classes) != outputs:
        also = ", or leave it out for the classes of ILSVRC-2012" if outputs == 1000 else ""
        raise UserError(
            f"{a.file} has {outputs:,} outputs and {of} {len(classes):,} classes: name another one{also}."
        )
    means = ", ".join(f"{value:.1f}" for value in mean_SS3.mean((0, 1)))
    print(f"mean image: {source}; on average {means} (red, green, blue)")
    print(f"classes: {outputs:,}, those of {of}")
    if store and not words and not a.classes:
        return TrainingSet.of(store)
    upright = bool(store and not words and store.upright)
    return TrainingSet(mean_SS3=mean_SS3, classes=classes, class_names=names, fingerprint="", upright=upright)


def _mean(
    a: Arguments, words: Sequence[str], store: Store | None, bgr: bool
) -> tuple[NDArray[np.float32], str]:
    """The mean image float32 [S, S, 3], and its source in words."""
    if words:
        found = mean_image.read(words, store.image_size if store else SIDE, bgr)
        return found, " ".join(words) if a.mean else f"{', '.join(words)} in {a.file.name}"
    if a.store:
        return open_training_data(a.store).mean, str(a.store)
    raise UserError(
        f"{a.file} has no mean image: name it with --mean imagenet_mean.binaryproto, give that of each "
        "channel with --mean 104 117 123, or take that of a store with --store data/imagenet256.zarr."
    )


def _classes(
    a: Arguments, store: Store | None, outputs: int
) -> tuple[tuple[str, ...], tuple[str, ...] | None, str]:
    """The classes, their names in words, and their source in words."""
    if a.classes:
        return *class_list.read(a.classes), str(a.classes)
    if store:
        return store.classes, store.class_names, str(store.path)
    if outputs == 1000:
        classes = ilsvrc2012()
        return classes, in_words(classes), "ILSVRC-2012 by WordNet ID (assumed: it has 1,000 outputs)"
    raise UserError(
        f"{a.file} has {outputs} outputs, and no file of weights has the names of its classes: give a text "
        "file of one class a line with --classes, or a store of these classes with --store."
    )
