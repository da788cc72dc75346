"""The results of an evaluation: printed tables, and the same numbers as JSON.

K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table
from numpy.typing import NDArray

from preprocess.shared.names import cell
from preprocess.store import Store
from trainer.evaluation.metrics import Tally

CENTER, TEN = "centre crop", "ten crops"
SHOWN = 20  # classes that the printed table shows; JSON holds all


@dataclass(frozen=True, kw_only=True)
class Result:
    """One network's counts, or those of several whose softmax outputs were averaged."""

    name: str
    checkpoints: tuple[Path, ...]
    tallies: dict[str, Tally]
    """By kind of view; the last is the one that the user asked for."""
    store: Store
    """The store of the images and of the classes' names."""
    held_classes: bool = False
    """Whether a guess was one of the classes that have images."""

    @property
    def asked(self) -> Tally:
        """Of the views that the user asked for."""
        return list(self.tallies.values())[-1]


def show(results: Sequence[Result]) -> None:
    """A table of errors in percent."""
    table = rich.table.Table(title="Error on the validation set")
    for column in ("run", "checkpoint", "views", "images", "top-1 error", "top-5 error"):
        table.add_column(column, justify="left" if column in ("run", "checkpoint", "views") else "right")
    for result in results:
        paths = result.checkpoints
        which = paths[0].name if len(paths) == 1 else f"{len(paths)} averaged"
        for views, tally in result.tallies.items():
            c = tally.counts
            errors = (f"{100 * c.top1_error:.2f} %", f"{100 * c.top5_error:.2f} %")
            table.add_row(*map(cell, (result.name, which, views, f"{c.images:,}", *errors)))
    rich.print(table)


def highest_error_first(tally: Tally) -> NDArray[np.int64]:
    """Classes that have images, by top-1 error, then top-5 error, highest first, then by index."""
    images = np.maximum(tally.images_K, 1)
    order = np.lexsort((-tally.top5_wrong_K / images, -tally.top1_wrong_K / images))
    return order[tally.images_K[order] > 0]


def show_classes(result: Result) -> None:
    """A table of the classes with the highest errors, and the most frequent wrong guess for each."""
    tally = result.asked
    names = [name.split(",")[0] for name in result.store.class_names or result.store.classes]
    order = highest_error_first(tally)
    shown = order[:SHOWN]
    title = f"Classes of {result.name}, highest error first"
    caption = f"{len(shown)} of {len(order)} classes; --json holds all" if len(order) > len(shown) else None
    table = rich.table.Table(title=cell(title), caption=caption)
    for column in ("class", "images", "top-1 error", "top-5 error", "most often taken for"):
        table.add_column(column, justify="left" if column in ("class", "most often taken for") else "right")
    for k in shown:
        wrong = tally.confusion_KK[k].copy()
        wrong[k] = 0
        other = int(wrong.argmax())
        errors = (
            f"{100 * part[k] / tally.images_K[k]:.1f} %" for part in (tally.top1_wrong_K, tally.top5_wrong_K)
        )
        taken = f"{names[other]} ({wrong[other]})" if wrong[other] else ""
        table.add_row(*map(cell, (names[k], tally.images_K[k], *errors, taken)))
    rich.print(table)


def record(result: Result, per_class: bool) -> dict[str, Any]:
    """The figures of the views that the user asked for, as plain values for JSON.

    One network has `checkpoint`; an ensemble has `ensemble`, the list of its members' checkpoints.
    """
    views, tally = list(result.tallies.items())[-1]
    c = tally.counts
    paths = [str(path) for path in result.checkpoints]
    return {
        "top1_error": c.top1_error,
        "top5_error": c.top5_error,
        "images": c.images,
        "classes": int(np.count_nonzero(tally.images_K)),
        "network_classes": len(tally.images_K),
        "held_classes": result.held_classes,
        "views": 10 if views == TEN else 1,
        **({"checkpoint": paths[0]} if len(paths) == 1 else {"ensemble": paths}),
        **({"per_class": _per_class(tally, result.store.classes)} if per_class else {}),
    }


def _per_class(tally: Tally, classes: Sequence[str]) -> list[dict[str, Any]]:
    """All classes in their order. `guesses` is a row of the confusion matrix without its zeros: of a million
    entries for a thousand classes no more are filled than there are images."""
    return [
        {
            "class": name,
            "images": int(tally.images_K[k]),
            "top1_wrong": int(tally.top1_wrong_K[k]),
            "top5_wrong": int(tally.top5_wrong_K[k]),
            "guesses": {
                classes[g]: int(tally.confusion_KK[k, g]) for g in tally.confusion_KK[k].nonzero()[0]
            },
        }
        for k, name in enumerate(classes)
    ]


def confusion_matrix(found: Mapping[str, Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Class names and the confusion matrix int64 [K, K] of one JSON record that has `per_class`.

    Row: the class of an image. Column: the first guess.
    """
    rows = found["per_class"]
    names = [row["class"] for row in rows]
    place = {name: k for k, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), np.int64)
    for row in rows:
        for guess, images in row["guesses"].items():
            matrix[place[row["class"]], place[guess]] = images
    return names, matrix
