"""Predictions for image files.

preprocess/pictures/ decodes and resizes the images, as it does for the store, so that the network's input is
the same to the byte as in training. The rest of the trainer imports preprocess.store alone.
"""

from __future__ import annotations

import json
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import rich
import rich.table
from numpy.typing import NDArray

from preprocess.pictures import MAX_BYTES, UnreadableError, convert
from preprocess.shared import progress
from preprocess.shared.image_files import counted, hidden_part, is_image_name, known_unreadable, walk
from preprocess.shared.names import cell, shown
from trainer.errors import UserError, require_output
from trainer.evaluation.pretrained import load
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.figures import annotated

if TYPE_CHECKING:
    from trainer.predict import Arguments

BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """One file's image and its softmax outputs; `error` where it cannot be read."""

    path: Path
    error: str = ""
    repairs: tuple[str, ...] = ()
    image_SS3: NDArray[np.uint8] | None = None
    p_K: NDArray[np.float32] | None = None


def find(paths: Sequence[Path]) -> list[Path]:
    """List the files themselves, and every image below the folders, by name.

    Links are followed. What is hidden in a folder is left aside; it is counted on stderr.

    Raises:
        UserError: there is no image, or no access.
    """
    if not paths:
        raise UserError("Name images or folders: python -m trainer.predict cat.jpg holiday/")
    found: list[Path] = []
    for path in paths:
        try:
            found += _images_in(path) if path.is_dir() else [path]
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be listed ({error.strerror}): make it readable."
            ) from error
        if not path.exists():
            raise UserError(f"There is no image {path}.")
    return found


def _images_in(folder: Path) -> list[Path]:
    """The image files below a folder, by name. Raises UserError, OSError."""
    names, hidden = [], set()
    unreadable: Counter[str] = Counter()
    for name, _, strange in walk(folder):
        if part := hidden_part(name):
            hidden.add(part)
        elif strange:
            print(f"note: {shown(folder / name)} is left aside: {strange}", file=sys.stderr)
        elif is_image_name(name):
            names.append(name)
        elif format := known_unreadable(name):
            unreadable[format] += 1
    if unreadable:
        print(f"note: {shown(folder)}: {counted(unreadable)}", file=sys.stderr)
    if hidden:
        print(f"note: {shown(folder)}: hidden entries left aside: {len(hidden)}", file=sys.stderr)
    if not names:
        raise UserError(f"There is no image in {folder} that can be read.")
    return sorted(folder / name for name in names)


def predictions(network: PretrainedNetwork, paths: Sequence[Path], ten_crop: bool) -> Iterator[Prediction]:
    """Predict each file's classes, in the order of the paths; a file that cannot be read has an error.

    Raises UserError when the network's outputs are not finite.
    """
    for first in range(0, len(paths), BATCH):
        read = [_read(path, network.image_size, network.upright) for path in paths[first : first + BATCH]]
        images = [p.image_SS3 for p in read if p.image_SS3 is not None]
        p_BK = network.probabilities(np.stack(images), ten_crop) if images else np.empty((0, 0), np.float32)
        if not np.isfinite(p_BK).all():
            raise UserError(
                f"{network.source} has outputs that are not finite numbers: its weights are damaged, or its "
                "training diverged; name another --model or --checkpoint."
            )
        rows = iter(p_BK)
        for p in read:
            yield p if p.error else Prediction(p.path, "", p.repairs, p.image_SS3, next(rows))


def _read(path: Path, size: int, upright: bool) -> Prediction:
    """Decode and resize one file; no softmax outputs yet."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to read a pipe could take for ever
            raise UnreadableError("is no regular file")
        if found.st_size > MAX_BYTES:
            raise UnreadableError(f"has {found.st_size:,} bytes, more than {MAX_BYTES:,}")
        image, repairs = convert(path.read_bytes(), path.name, size, upright=upright)
    except UnreadableError as error:
        return Prediction(path, error=str(error))
    except OSError as error:
        return Prediction(path, error=f"cannot be read: {error.strerror}")
    return Prediction(path, repairs=repairs, image_SS3=image)


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
    paths = find(a.pictures)
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
    unreadable = [p for p in found if p.error]
    for p in unreadable:
        print(f"error: {shown(p.path)} {shown(p.error)}", file=sys.stderr)
    raise SystemExit(1 if unreadable else 0)
