"""Leaving unreadable pictures out of a store (`on_error: skip`), without making all shards again.

The last readable pictures of the split fill the holes, so that only the shards with holes and the last ones
change. What is left out and where the others lie follows from the set of unreadable pictures alone.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError
from preprocess.plan import SPLITS, Plan, identified, load, manifest, pictures, record_path, save, sums_path
from preprocess.shards import hierarchy, layout
from preprocess.shared.files import write_json

Tables = dict[str, NDArray[np.void]]
Skipped = dict[str, dict[str, str]]  # by split: name -> reason


def fill_holes(rows: NDArray[np.void], unreadable: NDArray[np.bool_]) -> NDArray[np.void]:
    """The readable rows, each in its place but for the last ones, which fill the holes."""
    kept = int((~unreadable).sum())
    filled = rows.copy()
    filled[np.flatnonzero(unreadable[:kept])] = rows[kept:][~unreadable[kept:]]
    return filled[:kept]


def leave_out(plan: Plan, tables: Tables, skipped: Skipped) -> tuple[Plan, Tables]:
    """Plan and tables without these pictures; raises UserError when a split would be empty."""
    left = {}
    for split in SPLITS:
        names = [name.encode("utf-8", "surrogateescape") for name in skipped.get(split, {})]
        left[split] = fill_holes(tables[split], np.isin(tables[split]["name"], names))
        if not len(left[split]):
            raise UserError(f"no picture of {split} can be read: nothing is left with on_error: skip")
    counts = {split: len(left[split]) for split in SPLITS}
    return identified(replace(plan, counts=counts, skipped=skipped), left), left


def rearrange(store: Path, skipped: Skipped) -> Plan:
    """Leave pictures out of a store that was begun. Killed at any moment, stage 1 does it again."""
    manifest(store, "index").unlink(missing_ok=True)
    plan = load(store)
    merged = {
        split: dict(sorted((plan.skipped.get(split, {}) | skipped.get(split, {})).items()))
        for split in SPLITS
    }
    tables = {split: np.array(pictures(store, split)) for split in SPLITS}
    plan, tables = leave_out(plan, tables, merged)
    publish(store, plan, tables)
    return plan


def publish(store: Path, plan: Plan, tables: Tables) -> None:
    """Write plan, tables and the store's metadata anew, and the manifest of stage 1 last."""
    (store / "zarr.json").unlink(missing_ok=True)
    save(store, plan, tables)
    for split in SPLITS:
        for folder in (store / split / "images" / "c").glob("*/"):
            shard = int(folder.name)
            if shard >= plan.shards(split):
                for path in (record_path(store, split, shard), sums_path(store, shard)):
                    if split == "train" or path.suffix == ".json":
                        path.unlink(missing_ok=True)
                layout.shard_path(store, split, shard).unlink(missing_ok=True)
    hierarchy.create(store, plan, {split: tables[split]["label"] for split in SPLITS})
    write_json(manifest(store, "index"), {"identity": plan.identity, "counts": plan.counts})
