"""The keys of the JSON files in a run's folder, as far as they are read; all of them may have more.

A class without `total=False` has the keys that must be there.
"""

from typing import Any, NotRequired, TypedDict


class Change(TypedDict):
    """Settings that were changed when a run was continued: name -> [old, new]."""

    step: int
    changed: dict[str, tuple[Any, Any]]


class Record(TypedDict, total=False):
    """config.json. Every run has `config`; older versions wrote no `changes`."""

    config: dict[str, Any]
    store: str
    versions: dict[str, str]
    changes: list[Change]


class _Values(TypedDict, total=False):
    epoch: float
    loss: float
    lr: float
    images_per_second: float
    val_top1_error: float
    val_top5_error: float
    time: float
    ranks: int
    device: str
    last_step: int


class Line(_Values):
    """A line of metrics.jsonl, which has some of these values."""

    step: int


class Manifest(TypedDict):
    """manifest.json of a checkpoint: SHA-256 of its other files, in hexadecimal."""

    sha256: dict[str, str]


class _Plateau(TypedDict):
    best_error: float | None
    epochs_without: int
    falls: int


class InitFrom(TypedDict):
    """The network that a run was fine-tuned from: its file or checkpoint, its step, its training set."""

    name: str
    step: int
    fingerprint: str | None


class _Later(TypedDict, total=False):
    samples: str
    epoch_is_open: bool
    previous: str | None
    world: int
    versions: dict[str, str]
    init_from: InitFrom | None


class State(_Later):
    """state.json of a checkpoint. Older versions did not write all of it."""

    step: int
    schedule: _Plateau


class Validation(TypedDict):
    """validation.json of a checkpoint: errors as fractions, and the whole numbers that they follow from."""

    images: int
    top1_error: float
    top1_wrong: int
    top5_wrong: int


class _BestError(TypedDict):
    top1_error: float


class State01(TypedDict):
    """state.json of version 0.1, which kept the best checkpoint's error there."""

    best: _BestError | None


class Holder(TypedDict):
    """The lock's file: the job that writes to the run."""

    host: str
    process: int
    process_started: NotRequired[str | None]
    slurm_job: NotRequired[str | None]
    slurm_restart: NotRequired[str]
    since: NotRequired[str]


class Labels(TypedDict):
    """The classes in the header of a .safetensors file. Older versions did not write `upright`."""

    classes: list[str]
    class_names: list[str] | None
    upright: NotRequired[bool]


class Trained(Labels):
    """The header of a checkpoint's training_set.safetensors."""

    fingerprint: str


class _ExportedState(TypedDict, total=False):
    step: int
    epoch: float
    seed: int
    versions: dict[str, str]
    init_from: InitFrom | None


class _ExportedLater(TypedDict, total=False):
    fingerprint: str | None


class Exported(Labels, _ExportedLater):
    """The header of an exported file."""

    config: dict[str, Any]
    state: _ExportedState
