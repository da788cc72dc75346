"""Top-1 and top-5 error on the validation set, exact: each image counts once, for any number of ranks.

B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from preprocess.shared import progress
from preprocess.store import Store
from trainer.config import AugmentConfig
from trainer.data import augmentation
from trainer.data.batches import evaluation_batches
from trainer.evaluation.ensemble import Ensemble
from trainer.evaluation.metrics import Tally
from trainer.evaluation.results import CENTER, TEN
from trainer.parallel.network import ParallelNetwork

BATCH = {"cpu": 64, "cuda": 512}
"""Images at a time by the kind of device."""

NEVER = -1.0  # below every softmax output: a class with this score comes after all others


class StoppedError(Exception):
    """A signal or a file asked to stop in the middle of an evaluation."""


def evaluate(
    network: ParallelNetwork,
    store: Store,
    settings: AugmentConfig,
    *,
    ten_crop: bool = False,
    batch: int | None = None,
    title: str = "",
    ensemble: Ensemble | None = None,
    held_K: Tensor | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Tally]:
    """Counts over the whole validation set, class by class, by kind of view; every rank gets the sums.

    Args:
        settings: how the network's input is made of stored images.
        ten_crop: count the average of ten crops too; the centre crop is one of them.
        batch: images at a time on each pair of ranks; None: by the device, as BATCH has it.
        title: of the progress that rank 0 shows; none without it.
        ensemble: the softmax outputs are added to it too.
        held_K: bool [K], the classes that a guess may be; None: all.
        stop: asked by all ranks before each batch, with the same answer on all.

    Raises:
        StoppedError: `stop` returned True.
    """
    found = {views: Tally(network.classes) for views in ((CENTER, TEN) if ten_crop else (CENTER,))}
    size = batch or BATCH[network.topology.device.type]
    batches = _outputs(network, store, settings, ten_crop, size, title, stop)
    for number, (labels_B, outputs) in enumerate(batches):
        if held_K is not None:
            for p_BK in outputs.values():
                p_BK.masked_fill_(~held_K.to(p_BK.device), NEVER)
        for views, p_BK in outputs.items():
            found[views].add(p_BK, labels_B)
        if ensemble:
            ensemble.add(number, labels_B, outputs)
    return {views: tally.summed(network.transport.all_reduce_scalars) for views, tally in found.items()}


def _outputs(
    network: ParallelNetwork,
    store: Store,
    settings: AugmentConfig,
    ten_crop: bool,
    batch: int,
    title: str,
    stop: Callable[[], bool],
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Labels and softmax outputs float32 [B, K] by kind of view, for this pair's share of the images."""
    topology = network.topology
    sides = store.image_size, settings.crop_size
    (center,) = augmentation.center_crop(*sides)
    crops = augmentation.ten_crops(*sides) if ten_crop else [center]
    bar = progress.images(len(store.val), 0, title, bool(title) and topology.is_root, leave=False)
    batches = evaluation_batches(store.val, batch, topology.pair, topology.pairs, topology.device)
    cropper = augmentation.Cropper(store.mean, settings, training=False, device=topology.device)
    largest_share = -(-len(store.val) // topology.pairs)
    try:
        for _ in range(-(-largest_share // batch)):  # as often on all ranks: `stop` is asked by all
            if stop():
                raise StoppedError
            images, labels = next(batches, (None, None))
            if images is None or labels is None:  # this pair's share is done
                continue
            found: dict[str, Tensor] = {}
            average_BK = torch.zeros(len(labels), network.classes, device=topology.device)
            for crop in crops:
                view = augmentation.fixed(len(labels), *crop, settings.crop_size)
                p_BK = network.logits(cropper.crop(images, view)).softmax(1)
                average_BK += p_BK / len(crops)
                if crop == center:
                    found[CENTER] = p_BK
            if ten_crop:
                found[TEN] = average_BK
            yield labels, found
            bar.update(len(labels) * topology.pairs)
    finally:
        bar.close()
