"""The part of a training set that belongs to a network: mean image, classes and names, fingerprint.

Each checkpoint holds it, so that a network gives the same results when its store changes or is gone. On
another store the network's own mean image is subtracted, and classes are matched by name.

S side of the stored image, K classes of the network.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from torch import Tensor

from preprocess.shared import json_files
from preprocess.store import Split, Store
from trainer.errors import UserError
from trainer.runs import tensors
from trainer.runs.formats import Labels, Trained

FILE = "training_set.safetensors"
MEAN = "mean_image"
SHOWN = 3  # unknown classes that a message names


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The part of a store that belongs to a network."""

    mean_SS3: NDArray[np.float32] = field(repr=False)
    """Mean image, float32 [S, S, 3], 0..255."""
    classes: tuple[str, ...]
    """K names as the folders have them, such as n01440764, in the order of the network's outputs."""
    class_names: tuple[str, ...] | None
    """The same in words, where the source of the images knew them."""
    fingerprint: str
    """Of the store: it follows from every byte of the store's content. Empty: of no store."""
    upright: bool = False
    """Whether the images were turned as their EXIF data say."""

    @staticmethod
    def of(store: Store) -> TrainingSet:
        """The training set of a network that is trained on this store."""
        return TrainingSet(
            mean_SS3=store.mean,
            classes=store.classes,
            class_names=store.class_names,
            fingerprint=store.fingerprint,
            upright=store.upright,
        )

    def to_bytes(self) -> bytes:
        """A safetensors file: the mean image, and the rest as JSON under `about` in its header."""
        about = {name: getattr(self, name) for name in ("classes", "class_names", "fingerprint", "upright")}
        return safetensors.numpy.save({MEAN: self.mean_SS3}, {"about": json.dumps(about)})

    @staticmethod
    def read(checkpoint: Path) -> TrainingSet | None:
        """The training set in a checkpoint's folder; None in a checkpoint of version 0.1.

        Raises UserError when the file is damaged.
        """
        path = checkpoint / FILE
        if not path.exists():
            return None
        try:
            found, text = tensors.read(path)
            about = json_files.parse(text or "", Trained, "its header")
            return TrainingSet.from_header(found.get(MEAN), about, about["fingerprint"])
        except (tensors.TensorsError, json_files.JsonError) as error:
            raise UserError(f"{path} cannot be read: {error}; use another checkpoint.") from None

    @staticmethod
    def from_header(mean_SS3: Tensor | None, about: Labels, fingerprint: str) -> TrainingSet:
        """The training set in a file's header and its mean image. Raises TensorsError where they disagree."""
        classes, names = about["classes"], about["class_names"]
        shape = () if mean_SS3 is None else tuple(mean_SS3.shape)
        if mean_SS3 is None or not mean_SS3.numel() or shape != (*shape[:1] * 2, 3):
            raise tensors.TensorsError("it has no mean image [S, S, 3]")
        if not classes or (names is not None and len(names) != len(classes)):
            raise tensors.TensorsError(f"it has {len(classes)} classes and {len(names or ())} names of them")
        return TrainingSet(
            mean_SS3=mean_SS3.numpy(),
            classes=tuple(classes),
            class_names=None if names is None else tuple(names),
            fingerprint=fingerprint,
            upright=about.get("upright", False),
        )


def as_seen(store: Store, network: TrainingSet) -> tuple[Store, list[str]]:
    """A store as a trained network sees it: its mean image, its classes, its numbering of the labels.

    Also returns a sentence for each thing that differs. Raises UserError when the store's images have
    another size, or a class that the network does not know.
    """
    require_size(store, network)
    if store.fingerprint == network.fingerprint:
        return dataclasses.replace(store, mean=network.mean_SS3), []
    known = f" (fingerprint {store.fingerprint}, then {network.fingerprint})" if network.fingerprint else ""
    remarks = [
        f"{store.path} is not the store that this network was trained on{known}: the network's own mean "
        "image is subtracted, and classes are matched by name."
    ]
    if store.upright != network.upright:
        remarks.append(
            f"The images of {store.path} were {'' if store.upright else 'not '}turned as their EXIF data "
            f"say, and those of the network's own store were{' not' if store.upright else ''}."
        )
    index_K, how = match(store.classes, network.classes, str(store.path))
    remarks += [how] if how else []

    def numbered(split: Split) -> Split:
        return dataclasses.replace(split, labels=index_K[split.labels].astype(np.int16))

    seen = dataclasses.replace(
        store,
        train=numbered(store.train),
        val=numbered(store.val),
        classes=network.classes,
        class_names=network.class_names,
        mean=network.mean_SS3,
    )
    return seen, remarks


def require_size(store: Store, network: TrainingSet) -> None:
    """Raise UserError for a store whose images have another size than the network's mean image."""
    if store.image_size != len(network.mean_SS3):
        raise UserError(
            f"The images of {store.path} have {store.image_size} pixels a side, the network was trained on "
            f"{len(network.mean_SS3)}: preprocess them with image_size={len(network.mean_SS3)}."
        )


def match(found: Sequence[str], known: Sequence[str], where: str) -> tuple[NDArray[np.int64], str | None]:
    """For each class of a store the network's output of the same class, int64; and how, if not by name.

    Folders named by numbers, as ImageNet-V2's, are places in the order of the network's classes: all numbers
    below K, or as many numbers as there are classes. Raises UserError when a class is unknown.
    """
    place = {name: index for index, name in enumerate(known)}
    unknown = [name for name in found if name not in place]
    if not unknown:
        return np.array([place[name] for name in found], np.int64), None
    numbers, known_numbers = (all(name.isdecimal() for name in names) for names in (found, known))
    if numbers != known_numbers and len(found) == len(known):
        index_K = np.empty(len(found), np.int64)
        index_K[_in_order(found)] = _in_order(known)
        return index_K, _explained(found, known, index_K, where)
    if numbers and not known_numbers and max(map(int, found)) < len(known):
        index_K = np.array(_in_order(known))[[int(name) for name in found]]
        return index_K, _explained(found, known, index_K, where)
    shown = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
    raise UserError(
        f"{len(unknown)} of {len(found)} classes of {where} are unknown to the network ({shown}; it knows "
        f"{', '.join(known[:SHOWN])}, ...): name the folders as the network's classes and preprocess again."
    )


def _in_order(names: Sequence[str]) -> list[int]:
    """Places of the names in their order: as numbers where all are numbers, else as text."""
    numbers = all(name.isdecimal() for name in names)
    return sorted(range(len(names)), key=lambda index: int(names[index]) if numbers else names[index])


def _explained(found: Sequence[str], known: Sequence[str], index_K: NDArray[np.int64], where: str) -> str:
    pairs = ", ".join(f"{found[k]} is {known[index_K[k]]}" for k in _in_order(found)[:SHOWN])
    return (
        f"The classes of {where} or of the network are numbers and were matched by their order: {pairs}, ..."
    )
