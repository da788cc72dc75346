"""Predictions for image files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import rich
import rich.table
from numpy.typing import NDArray

from preprocess.shared import progress
from preprocess.shared.names import cell
from trainer.errors import require_output
from trainer.evaluation import image_files
from trainer.evaluation.image_files import ImageFile
from trainer.evaluation.pretrained import load
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.figures import annotated

if TYPE_CHECKING:
    from trainer.predict import Arguments

BATCH = 32


@dataclass(frozen=True)
class Prediction(ImageFile):
    """A file and its softmax outputs."""

    p_K: NDArray[np.float32] | None = None


def predictions(network: PretrainedNetwork, paths: Sequence[Path], ten_crop: bool) -> Iterator[Prediction]:
    """Predict each file's classes, in the order of the paths; a file that cannot be read has an error.

    Raises UserError when the network's outputs are not finite.
    """
    for files in image_files.batches(paths, network.image_size, network.upright, BATCH):
        p_BK = network.probabilities([f.image_SS3 for f in files if f.image_SS3 is not None], ten_crop)
        network.require_finite(p_BK)
        rows = iter(p_BK)
        for f in files:
            yield Prediction(f.path, f.error, f.repairs, f.image_SS3, None if f.error else next(rows))


def best(p_K: NDArray[np.float32], count: int) -> list[int]:
    """Indices of the most probable classes; equal ones in the order of their indices."""
    return [int(index) for index in np.argsort(-p_K, kind="stable")[:count]]


def as_table(network: PretrainedNetwork, found: Sequence[Prediction], top: int) -> rich.table.Table:
    """A row for each class, the image's path in its first."""
    table = rich.table.Table(rich.table.Column("image", overflow="fold"), "class", title=cell(network.source))
    table.add_column("probability", justify="right")
    for p in found:
        if p.p_K is not None:
            for place, index in enumerate(best(p.p_K, top)):
                words = (p.path if place == 0 else "", network.name(index), f"{p.p_K[index]:.4f}")
                table.add_row(*map(cell, words), end_section=place == top - 1)
    return table


def as_json(network: PretrainedNetwork, p: Prediction, top: int) -> dict[str, Any]:
    """One prediction in plain types for JSON."""
    if p.p_K is None:
        return {"picture": str(p.path), "error": p.error}
    classes = [
        {"class": network.classes[i], "name": network.name(i), "probability": float(p.p_K[i])}
        for i in best(p.p_K, top)
    ]
    return {"picture": str(p.path), "repairs": p.repairs, "predictions": classes}


def run(a: Arguments) -> NoReturn:
    """Predict and print; ends with exit code 1 where an image could not be read."""
    if a.annotate:
        require_output(a.annotate / "image.png")
    paths = image_files.find(a.pictures)
    network = load(a.model, a.checkpoint, a.device)
    bar = progress.images(len(paths), 0, "images", leave=False)
    found: list[Prediction] = []
    for p in predictions(network, paths, a.ten_crop):
        if a.annotate and p.p_K is not None and p.image_SS3 is not None:
            target = a.annotate / f"{len(found):05d}-{p.path.stem}.png"
            annotated.write(network, p.image_SS3, p.p_K, target)
        found.append(Prediction(p.path, p.error, p.repairs, None, p.p_K))  # without the image's bytes
        bar.update(1)
    bar.close()
    if a.format == "json":
        print(json.dumps([as_json(network, p, a.top) for p in found], indent=1))
    else:
        rich.print(as_table(network, found, min(a.top, len(network.classes))))
    raise SystemExit(image_files.report_unreadable(found))
