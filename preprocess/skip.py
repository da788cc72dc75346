"""Leaves unreadable images out of a store (`on_error: skip`) without making all shards again.

The last readable images of the split fill the gaps, so only the shards with gaps and the last ones change.
The result depends on the set of unreadable images alone, not on the order in which they were found.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError
from preprocess.plan import SPLITS, Plan, Skipped, Tables, load_plan, load_table, manifest, with_identity
from preprocess.shards import hierarchy


def fill_gaps(rows: NDArray[np.void], unreadable: NDArray[np.bool_]) -> NDArray[np.void]:
    """The readable rows, each in its place except the last ones, which fill the gaps."""
    kept = int((~unreadable).sum())
    filled = rows.copy()
    filled[np.flatnonzero(unreadable[:kept])] = rows[kept:][~unreadable[kept:]]
    return filled[:kept]


def leave_out(plan: Plan, tables: Tables, skipped: Skipped) -> tuple[Plan, Tables]:
    """Plan and tables without these images. Raises UserError when a split would be empty."""
    left = {}
    for split in SPLITS:
        names = [name.encode("utf-8", "surrogateescape") for name in skipped.get(split, {})]
        left[split] = fill_gaps(tables[split], np.isin(tables[split]["name"], names))
        if len(tables[split]) and not len(left[split]):
            raise UserError(f"no image of {split} can be read: nothing is left with on_error: skip")
    counts = {split: len(left[split]) for split in SPLITS}
    return with_identity(replace(plan, counts=counts, skipped=skipped), left), left


def leave_out_of_store(store: Path, skipped: Skipped) -> Plan:
    """Leave images out of an unfinished store; return its new plan. After a kill, stage 1 repeats this."""
    manifest(store, "index").unlink(missing_ok=True)
    plan = load_plan(store)
    merged = {
        split: dict(sorted((plan.skipped.get(split, {}) | skipped.get(split, {})).items()))
        for split in SPLITS
    }
    tables = {split: np.array(load_table(store, split)) for split in SPLITS}
    plan, tables = leave_out(plan, tables, merged)
    hierarchy.publish(store, plan, tables)
    return plan
