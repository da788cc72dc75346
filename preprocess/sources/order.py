"""Which images of a source are in a store, and in which order."""

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError
from preprocess.plan import Tables
from preprocess.sources.tables import Source

Table = NDArray[np.void]


def choose(
    source: Source, *, seed: int, validation_fraction: float, train_per_class: int, validation_per_class: int
) -> Tables:
    """Choose the images of both splits, and shuffle each split once.

    Args:
        source: the images that were found.
        seed: it alone decides the order and every choice.
        validation_fraction: share of the images taken for validation where the source has no such part.
        train_per_class, validation_per_class: most images of one class; 0: no limit.

    Raises:
        UserError: a split would be empty, but for train where the source has no such part.
    """
    generator = np.random.default_rng(seed)
    train, val = shuffled(source.train, generator), shuffled(source.val, generator)
    if not len(train):
        return {"train": train, "val": at_most_per_class(val, validation_per_class)}
    if not len(val):
        train, val = split_off_validation(train, validation_fraction, generator)
    chosen = {
        "train": at_most_per_class(train, train_per_class),
        "val": at_most_per_class(val, validation_per_class),
    }
    for split, rows in chosen.items():
        if not len(rows):
            raise UserError(
                f"no image is left for {split}, with {len(source.train)} in all: "
                f"change validation_fraction, which is {validation_fraction}"
            )
    return chosen


def shuffled(rows: Table, generator: np.random.Generator) -> Table:
    """The rows in random order. Where images are read in groups, the groups are, each in its own order.

    So an archive that cannot be read at random is read once. Groups of the usual size come first: shards of
    a multiple of it (`whole_groups`) then have whole groups. Training draws its own order in any case.
    """
    group = rows["group"]
    if not len(rows) or group.max() < 0:
        return generator.permutation(rows)
    place = generator.permutation(group.max() + 1)[group]
    unusual = ~in_usual_groups(rows)[0]
    return rows[np.lexsort((rows["offset"], place, unusual))]


def in_usual_groups(rows: Table) -> tuple[NDArray[np.bool_], int]:
    """Which rows are in groups of the usual size, bool [N], and that size: the one that most groups have."""
    _, number, sizes = np.unique(rows["group"], return_inverse=True, return_counts=True)
    usual = int(np.bincount(sizes).argmax())
    return sizes[number] == usual, usual


def whole_groups(rows: Table, shard_length: int) -> int:
    """The largest shard length up to `shard_length` that is a multiple of the usual size of the groups.

    `shard_length` itself where images are read singly, where most are in groups of other sizes, as after
    some were taken for validation, and where the usual group is larger.
    """
    usual, size = in_usual_groups(rows)
    if rows["group"].max() < 0 or 2 * usual.sum() <= len(rows) or size > shard_length:
        return shard_length
    return shard_length // size * size


def split_off_validation(rows: Table, fraction: float, generator: np.random.Generator) -> tuple[Table, Table]:
    """Split N rows into training and round(fraction * N) rows of validation, with every class in proportion.

    Systematic sampling: the images of a class of n get the places (0 + phase) / n, (1 + phase) / n, ...
    with a phase drawn from 0..1, and the rows with the lowest places are validation. So a class gives
    fraction * n images, rounded up or down.
    """
    label, rank = rows["label"], rank_in_class(rows)
    phase = generator.random(int(label.max()) + 1)
    place = (rank + phase[label]) / np.bincount(label)[label]
    validation = np.zeros(len(rows), dtype=bool)
    validation[np.argsort(place, kind="stable")[: round(fraction * len(rows))]] = True
    return rows[~validation], rows[validation]


def at_most_per_class(rows: Table, limit: int) -> Table:
    """The first `limit` rows of each class, in the order given; all rows for 0."""
    return rows[rank_in_class(rows) < limit] if limit else rows


def rank_in_class(rows: Table) -> NDArray[np.int64]:
    """For each row the number of rows of its class before it, int64 [N]."""
    order = np.argsort(rows["label"], kind="stable")
    label = rows["label"][order]
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - np.searchsorted(label, label)
    return rank
