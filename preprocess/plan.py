"""What a store will hold, decided before the first picture is read, and kept inside the store.

Everything beside the zarr hierarchy itself lies in the store's hidden folder: the plan, one record a
shard, a manifest a stage, the logs. Whoever moves or removes the store moves or removes all of it.
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError
from preprocess.shared.files import write_atomically, write_json

SPLITS = ("train", "val")
IMAGE_SIZES = (224, 4096)  # pixels, least and most; the network crops 224x224
FORMAT = 3  # counts up when the same pictures and settings would give other bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a worker must know, but for the tables of pictures, which lie beside it."""

    kind: str  # the layout of the source, in words
    source: str  # the folder that archives and pictures lie in
    archives: tuple[str, ...]
    classes: tuple[str, ...]
    class_names: tuple[str, ...] | None
    image_size: int  # pixels
    shard_length: int  # pictures
    draft: bool  # the JPEG decoder may shrink large pictures itself
    seed: int
    counts: dict[str, int]  # pictures by split
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)  # by split: unreadable, with the reason
    origin: str = ""  # the identity before anything was skipped
    identity: str = ""  # SHA-256 of the settings and of all names and labels in their order

    def shards(self, split: str) -> int:
        """How many shards the split has; the last one may hold fewer pictures than the others."""
        return -(-self.counts[split] // self.shard_length)

    def span(self, split: str, shard: int) -> slice:
        """The rows of the split's table that make up a shard."""
        begin = shard * self.shard_length
        return slice(begin, begin + self.length(split, shard))

    def length(self, split: str, shard: int) -> int:
        """How many pictures a shard holds."""
        return min(self.shard_length, self.counts[split] - shard * self.shard_length)


def work_folder(store: Path) -> Path:
    """The hidden folder."""
    return store / ".preprocess"


def manifest(store: Path, stage: str) -> Path:
    """The small file that a stage writes last: what Snakemake waits for."""
    return work_folder(store) / f"{stage}.json"


def record_path(store: Path, split: str, shard: int) -> Path:
    """What is known of a finished shard, JSON."""
    return work_folder(store) / "records" / split / f"{shard:05d}.json"


def sums_path(store: Path, shard: int) -> Path:
    """The partial sums of a training shard, npz."""
    return work_folder(store) / "records" / "train" / f"{shard:05d}.npz"


def identified(plan: Plan, tables: dict[str, NDArray[np.void]]) -> Plan:
    """The plan with its identity. Where the source lies is no part of it: a source may be moved."""
    apart = ("source", "skipped", "origin", "identity")
    facts = {key: value for key, value in asdict(plan).items() if key not in apart}
    digest = hashlib.sha256(json.dumps([FORMAT, facts]).encode())
    for split in SPLITS:
        digest.update(tables[split]["name"].tobytes() + tables[split]["label"].tobytes())
    return replace(plan, identity=digest.hexdigest())


def shard_identity(plan: Plan, rows: NDArray[np.void]) -> str:
    """SHA-256 of all that a shard's bytes follow from: a picture replaced or moved makes another."""
    facts = json.dumps([FORMAT, plan.image_size, plan.shard_length, plan.draft])
    columns = (rows[column].tobytes() for column in ("name", "length", "file", "offset"))
    return hashlib.sha256(b"".join([facts.encode(), *columns])).hexdigest()


def save(store: Path, plan: Plan, tables: dict[str, NDArray[np.void]]) -> None:
    """Write the tables, then the plan."""
    for split in SPLITS:
        buffer = io.BytesIO()
        np.save(buffer, tables[split])
        write_atomically(work_folder(store) / f"{split}.npy", buffer.getvalue())
    write_json(work_folder(store) / "plan.json", asdict(plan))


def require_image_size(image_size: int) -> None:
    """Raises UserError for a size that no store may have."""
    least, most = IMAGE_SIZES
    if not least <= image_size <= most:
        raise UserError(
            f"image_size must be {least} to {most} pixels, not {image_size}: "
            f"the network crops {least}x{least} pixels"
        )


def find(store: Path) -> Plan | None:
    """The plan that a store was begun with, None where there is no store.

    Raises:
        UserError: `store` holds something that was not made by this program.
    """
    path = work_folder(store) / "plan.json"
    if path.is_file():
        stored: dict[str, Any] = json.loads(path.read_text())
        for key in ("archives", "classes", "class_names"):
            stored[key] = None if stored[key] is None else tuple(stored[key])
        try:
            return Plan(**stored)
        except TypeError as error:
            raise UserError(f"{store} was made by another version of this program: remove it") from error
    if store.is_dir() and any(entry != work_folder(store) for entry in store.iterdir()):
        raise UserError(f"{store} holds something else: name another place with --config store=PATH")
    return None


def load(store: Path) -> Plan:
    """The plan of a store that must be there; raises UserError."""
    plan = find(store)
    if plan is None:
        raise UserError(f"there is no store at {store}: run `snakemake preprocess` to make it")
    return plan


def pictures(store: Path, split: str) -> NDArray[np.void]:
    """The table of a split in the order of the store, mapped from the disk."""
    return np.load(work_folder(store) / f"{split}.npy", mmap_mode="r")
