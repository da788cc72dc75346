"""A set for evaluation alone, such as ImageNet-V2: its classes are those of a network or of another store.

These are read from the metadata alone: of a finished store, a run, a checkpoint, or a file that
`trainer.export` wrote.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from unicodedata import normalize

import numpy as np

from preprocess.errors import UserError
from preprocess.plan import AS_STORED, UPRIGHT
from preprocess.shared import json_files
from preprocess.shared.json_files import JsonError
from preprocess.sources.tables import Source

TRAINING_SET = "training_set.safetensors"  # in the folder of a checkpoint
LONGEST_HEADER = 2**24  # bytes of a file's header; that of a thousand classes has 60 kB
SHOWN = 3  # classes that a message names


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What evaluation on another set must agree with."""

    path: Path
    classes: tuple[str, ...]
    class_names: tuple[str, ...] | None  # in words
    image_size: int  # pixels
    orientation: str


class _Stored(TypedDict):
    classes: list[str]
    class_names: list[str] | None
    image_size: int
    orientation: NotRequired[str]
    fingerprint: str  # only of a finished store


class _Group(TypedDict):
    attributes: dict[str, Any]


class _About(TypedDict):
    classes: list[str]
    class_names: list[str] | None
    upright: NotRequired[bool]


class _Array(TypedDict):
    shape: list[int]


class _Metadata(TypedDict):
    about: str  # JSON


_Header = TypedDict("_Header", {"__metadata__": _Metadata, "mean_image": _Array})


def read_reference(path: Path, image_size: int) -> Reference:
    """Read the classes of a store, a run, a checkpoint or an exported network.

    Raises:
        UserError: they cannot be read, or its images have another size.
    """
    try:
        found = _of_store(path) if (path / "zarr.json").is_file() else _of_network(path)
        if found.class_names is not None and len(found.class_names) != len(found.classes):
            raise JsonError(f"{len(found.classes)} classes and {len(found.class_names)} names of them")
    except (OSError, LookupError, TypeError, JsonError, struct.error) as error:
        raise UserError(
            f"classes={path} has no classes that can be read ({error}): name a finished store, a run, a "
            "checkpoint or an exported network"
        ) from error
    if found.image_size != image_size:
        raise UserError(
            f"the images of {path} have {found.image_size} pixels a side, not {image_size}: "
            f"add image_size={found.image_size}"
        )
    return found


def _of_store(path: Path) -> Reference:
    attributes = json_files.read(path / "zarr.json", _Group)["attributes"]
    found = json_files.convert(attributes, _Stored, str(path / "zarr.json"))
    names = found["class_names"]
    return Reference(
        path=path,
        classes=tuple(found["classes"]),
        class_names=None if names is None else tuple(names),
        image_size=found["image_size"],
        orientation=found.get("orientation", AS_STORED),
    )


def _of_network(path: Path) -> Reference:
    """From the header of a safetensors file: its length as 8 bytes, then JSON."""
    file = path if path.is_file() else path / TRAINING_SET
    for checkpoint in sorted(path.glob(f"checkpoints/*/{TRAINING_SET}")):  # all of a run have the same
        file = checkpoint
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        text = opened.read(min(length, LONGEST_HEADER)).decode(errors="replace")
    header = json_files.parse(text, _Header, f"the header of {file}")
    about = json_files.parse(header["__metadata__"]["about"], _About, f"the header of {file}")
    names = about["class_names"]
    return Reference(
        path=path,
        classes=tuple(about["classes"]),
        class_names=None if names is None else tuple(names),
        image_size=header["mean_image"]["shape"][0],
        orientation=UPRIGHT if about.get("upright") else AS_STORED,
    )


def places_of(classes: Sequence[str], reference: Reference) -> list[int]:
    """The place of each class of a set among the classes of the reference.

    By name; where all names of the set are whole numbers and those of the reference are not, each is the
    place itself, counted from 0, as in ImageNet-V2.

    Raises:
        UserError: a class is unknown, or two are the same.
    """
    known = {normalize("NFC", name): place for place, name in enumerate(reference.classes)}
    numbers = all(map(str.isdecimal, classes)) and not all(map(str.isdecimal, known))
    if numbers:
        places = [int(name) if int(name) < len(known) else -1 for name in classes]
    else:
        places = [known.get(normalize("NFC", name), -1) for name in classes]
    unknown = [name for name, place in zip(classes, places, strict=True) if place < 0]
    if unknown:
        what = (
            f"numbers from 0 to {len(known) - 1}"
            if numbers
            else ", ".join([*reference.classes[:SHOWN], "..."])
        )
        raise UserError(
            f"{len(unknown)} of {len(classes)} classes are unknown to {reference.path}: "
            f"{', '.join(unknown[:SHOWN])}{', ...' if unknown[SHOWN:] else ''}; it has {what}: rename their "
            "folders, or leave them out"
        )
    if len(set(places)) < len(places):
        raise UserError("two classes have one number, such as 1 and 01: put their images into one of them")
    return places


def for_evaluation(source: Source, reference: Reference | None) -> Source:
    """The source with all its images as validation, and the classes of the reference that it has.

    Without a reference the classes stay. The images of a training part are taken where there is no other.

    Raises:
        UserError: as `places_of`.
    """
    rows = source.val if len(source.val) else source.train
    evaluation = replace(source, train=rows[:0], val=rows)
    if reference is None:
        return evaluation
    place = np.array(places_of(source.classes, reference))
    held, label = np.unique(place[rows["label"]], return_inverse=True)
    evaluation.val["label"] = label
    names = reference.class_names
    return replace(
        evaluation,
        classes=tuple(reference.classes[k] for k in held),
        class_names=None if names is None else tuple(names[k] for k in held),
        notes=(*source.notes, f"{len(held)} of the {len(reference.classes)} classes of {reference.path}"),
    )
