"""The plan of a store: its images, their order and its settings, decided before the first image is read.

All files of a store outside the zarr hierarchy are in its hidden folder `.preprocess`: the plan, the tables
of images, one record a shard, one manifest a stage, the logs. They are moved and removed with the store.
"""

import hashlib
import io
import json
import shlex
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError
from preprocess.shared import json_files
from preprocess.shared.files import write_atomically, write_json

SPLITS = ("train", "val")
IMAGE_SIZES = (224, 4096)  # pixels, least and most; the network crops 224x224
AS_STORED, UPRIGHT = "as-stored", "upright"  # the setting `orientation`
FORMAT = 3  # to be raised when the same images and settings would give other bytes

Tables = dict[str, NDArray[np.void]]
"""By split: one row an image, with the fields of `sources.tables.Row`."""
Skipped = dict[str, dict[str, str]]
"""By split: the names of unreadable images that are left out, each with the reason."""


class PlanDamagedError(UserError):
    """The plan or a table of a store is damaged or missing; `snakemake preprocess` can write it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a worker needs besides the tables of images."""

    kind: str  # the layout of the source, in words
    source: str  # the folder that holds the archives or images
    archives: tuple[str, ...]
    classes: tuple[str, ...]
    class_names: tuple[str, ...] | None
    image_size: int  # pixels
    shard_length: int  # images
    draft: bool  # whether the JPEG decoder may shrink large images itself
    orientation: str = AS_STORED
    seed: int
    counts: dict[str, int]  # images by split
    skipped: Skipped = field(default_factory=dict)
    origin: str = ""  # the identity before any image was skipped
    identity: str = ""  # SHA-256 of the settings and of all names and labels in their order

    @property
    def upright(self) -> bool:
        """Whether images are turned as their EXIF orientation says."""
        return self.orientation == UPRIGHT

    def shards(self, split: str) -> int:
        """The number of shards of a split; the last one may hold fewer images than the others."""
        return -(-self.counts[split] // self.shard_length)

    def span(self, split: str, shard: int) -> slice:
        """The rows of the split's table that make up a shard."""
        begin = shard * self.shard_length
        return slice(begin, begin + self.length(split, shard))

    def length(self, split: str, shard: int) -> int:
        """The number of images in a shard."""
        return min(self.shard_length, self.counts[split] - shard * self.shard_length)


def work_folder(store: Path) -> Path:
    """The hidden folder."""
    return store / ".preprocess"


def archives_folder(store: Path) -> Path:
    """The lists of the archives' members, and the indices of archives that cannot be read without one."""
    return work_folder(store) / "archives"


def manifest(store: Path, stage: str) -> Path:
    """The small JSON file that a stage writes last. It is the rule's output in the Snakefile."""
    return work_folder(store) / f"{stage}.json"


def aside_path(store: Path) -> Path:
    """What stage 1 left aside, JSON (`index.Aside`)."""
    return work_folder(store) / "aside.json"


def record_path(store: Path, split: str, shard: int) -> Path:
    """The record of a finished shard, JSON (`shards.records.Record`)."""
    return work_folder(store) / "records" / split / f"{shard:05d}.json"


def sums_path(store: Path, shard: int) -> Path:
    """The pixel sums of a training shard, npz (`shards.sums.Sums`)."""
    return work_folder(store) / "records" / "train" / f"{shard:05d}.npz"


def with_identity(plan: Plan, tables: Tables) -> Plan:
    """The plan with its identity filled in. The source's path is left out: a source may be moved."""
    apart = ("source", "skipped", "origin", "identity")
    facts = {key: value for key, value in asdict(plan).items() if key not in apart}
    if not plan.upright:
        del facts["orientation"]  # as before there was a choice
    digest = hashlib.sha256(json.dumps([FORMAT, facts]).encode())
    for split in SPLITS:
        digest.update(tables[split]["name"].tobytes() + tables[split]["label"].tobytes())
    return replace(plan, identity=digest.hexdigest())


def shard_identity(plan: Plan, rows: NDArray[np.void]) -> str:
    """SHA-256 of all that decides a shard's bytes; it changes when an image is replaced or moved."""
    turned = [plan.orientation] if plan.upright else []
    facts = json.dumps([FORMAT, plan.image_size, plan.shard_length, plan.draft, *turned])
    columns = (rows[column].tobytes() for column in ("name", "length", "file", "offset"))
    return hashlib.sha256(b"".join([facts.encode(), *columns])).hexdigest()


def save_plan(store: Path, plan: Plan, tables: Tables) -> None:
    """Write the tables, then the plan."""
    for split in SPLITS:
        buffer = io.BytesIO()
        np.save(buffer, tables[split])
        write_atomically(table_path(store, split), buffer.getvalue())
    write_json(plan_path(store), asdict(plan))


def require_image_size(image_size: int) -> None:
    """Raise UserError for a size that no store may have."""
    least, most = IMAGE_SIZES
    if not least <= image_size <= most:
        raise UserError(
            f"image_size must be {least} to {most} pixels, not {image_size}: "
            f"the network crops {least}x{least} pixels"
        )


def plan_path(store: Path) -> Path:
    """The plan of a store, JSON (`Plan`)."""
    return work_folder(store) / "plan.json"


def damaged_plan_path(store: Path) -> Path:
    """The name that `verify` gives a damaged plan."""
    return work_folder(store) / "plan.damaged"


def table_path(store: Path, split: str) -> Path:
    """The table of a split, npy."""
    return work_folder(store) / f"{split}.npy"


def find_plan(store: Path) -> Plan | None:
    """The plan of a store, None where there is no store, or one whose plan must be written again.

    Raises:
        PlanDamagedError: the plan is damaged.
        UserError: the folder `store` was not made by this program, or by another version.
    """
    path = plan_path(store)
    try:
        stored = json_files.read(path, dict[str, Any])
        if not {"identity", "classes"} <= stored.keys() <= {f.name for f in fields(Plan)}:
            raise UserError(f"{store} was made by another version of this program: remove it")
        return _checked(json_files.convert(stored, Plan, str(path)), path)
    except json_files.MissingError:
        pass
    except json_files.JsonError as error:
        raise PlanDamagedError(f"{error}: {repair(store)}") from None
    if not _begun(store) and store.is_dir() and any(entry != work_folder(store) for entry in store.iterdir()):
        raise UserError(f"{store} holds something else: name another place with --config store=PATH")
    return None


def _begun(store: Path) -> bool:
    """Whether stage 1 has written there."""
    return any(path.exists() for path in (damaged_plan_path(store), *(table_path(store, s) for s in SPLITS)))


def _checked(plan: Plan, path: Path) -> Plan:
    """The same plan. Raises JsonError where its numbers cannot be those of a store."""
    sound = 1 <= plan.image_size <= IMAGE_SIZES[1] and plan.shard_length >= 1
    if not sound or any(not 0 <= plan.counts.get(split, -1) < 2**40 for split in SPLITS):
        raise json_files.JsonError(f"{path} has numbers that no store has")
    return plan


def repair(store: Path) -> str:
    """The remedy for a store that is damaged."""
    return f"run `python -m preprocess.verify --store {shlex.quote(str(store))}`, which prints what to do"


def load_plan(store: Path) -> Plan:
    """The plan of a store. Raises UserError where there is no store, and as `find_plan` does."""
    plan = find_plan(store)
    if plan is None and _begun(store):
        raise PlanDamagedError(f"{plan_path(store)} is missing: {repair(store)}")
    if plan is None:
        raise UserError(f"there is no store at {store}: run `snakemake preprocess` to make it")
    return plan


def load_table(store: Path, split: str) -> NDArray[np.void]:
    """The table of a split in the order of the store, memory-mapped. Raises PlanDamagedError."""
    path = table_path(store, split)
    try:
        table: NDArray[np.void] = np.load(path, mmap_mode="r")
        table["name"], table["label"], table["length"], table["file"], table["offset"]
    except FileNotFoundError:
        raise PlanDamagedError(f"{path} is missing: {repair(store)}") from None
    except Exception:  # what a damaged header makes NumPy raise is of many kinds
        raise PlanDamagedError(f"{path} is no table of images: {repair(store)}") from None
    return table
