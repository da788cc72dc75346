"""What a trained network sees in pictures: JPEGs, PNGs, and folders of them. Needs no MPI.

python -m trainer.predict cat.jpg holiday/                         the latest run's best checkpoint
python -m trainer.predict cat.jpg --model alexnet.safetensors      an exported file

Pictures go through preprocess/pictures/, the very code that made the store: what the network is shown here
must be, to the byte, what it was trained on. Training itself knows preprocess.store alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich
import rich.table
import tyro
from numpy.typing import NDArray

from preprocess.pictures import SUFFIXES, UnreadableError, convert
from preprocess.shared import progress
from trainer.cli import one_sentence, parse
from trainer.errors import UserError
from trainer.evaluation.pretrained import Trained, open_trained
from trainer.figures import annotated

BATCH = 32
KNOWN = frozenset().union(*SUFFIXES.values())


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The most probable classes of pictures.

    Example: python -m trainer.predict cat.jpg holiday/ --ten-crop --model runs/paper-001
    """

    pictures: tyro.conf.Positional[tuple[Path, ...]] = ()
    """JPEG or PNG files, and folders, which are searched through."""
    model: Path | None = None
    """A run's folder, a checkpoint's, or an exported .safetensors file. None: the latest run in runs/."""
    ten_crop: bool = False
    """Average the softmax outputs of ten views a picture: corners, centre, and their mirror images."""
    top: int = 5
    """Classes to name for each picture."""
    format: Literal["table", "json"] = "table"
    """What goes to the standard output."""
    annotate: Path | None = None
    """Write each picture with its bars, as PNG, into this folder too."""
    checkpoint: Literal["best", "latest"] = "best"
    """Of a run. best: by validation error. latest: the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""


@dataclass(frozen=True)
class Answer:
    """One picture and its classes; either `error` or the others."""

    path: Path
    error: str = ""
    repairs: tuple[str, ...] = ()
    picture_SS3: NDArray[np.uint8] | None = None
    p_K: NDArray[np.float32] | None = None


def find(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and every JPEG and PNG below the folders, by name. Raises UserError."""
    if not paths:
        raise UserError("Name pictures or folders: python -m trainer.predict cat.jpg holiday/")
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in KNOWN and p.is_file())
            if not inside:
                raise UserError(f"There is no JPEG or PNG in {path}.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"There is no picture {path}.")
    return found


def answers(trained: Trained, paths: Sequence[Path], ten_crop: bool) -> Iterator[Answer]:
    """One for each path, in order; a picture that cannot be read has an error instead of classes."""
    for first in range(0, len(paths), BATCH):
        read = [_read(path, trained.image_size) for path in paths[first : first + BATCH]]
        pictures = [answer.picture_SS3 for answer in read if answer.picture_SS3 is not None]
        rows = iter(trained.probabilities(np.stack(pictures), ten_crop) if pictures else ())
        for a in read:
            yield a if a.error else Answer(a.path, "", a.repairs, a.picture_SS3, next(rows))


def _read(path: Path, size: int) -> Answer:
    try:
        picture, repairs = convert(path.read_bytes(), path.name, size)
    except UnreadableError as error:
        return Answer(path, error=str(error))
    except OSError as error:
        return Answer(path, error=f"cannot be read: {error.strerror}")
    return Answer(path, repairs=repairs, picture_SS3=picture)


def best(p_K: NDArray[np.float32], count: int) -> list[int]:
    """The most probable classes, equal ones in the classes' order."""
    return [int(index) for index in np.argsort(-p_K, kind="stable")[:count]]


def table(trained: Trained, found: Sequence[Answer], top: int) -> rich.table.Table:
    """A line a class, the picture's name on its first."""
    made = rich.table.Table(rich.table.Column("picture", overflow="fold"), "class", title=str(trained.source))
    made.add_column("probability", justify="right")
    for a in found:
        if a.p_K is not None:
            for place, index in enumerate(best(a.p_K, top)):
                name = f"{a.path}" if place == 0 else ""
                made.add_row(name, trained.name(index), f"{a.p_K[index]:.4f}", end_section=place == top - 1)
    return made


def plain(trained: Trained, a: Answer, top: int) -> dict[str, Any]:
    """One answer for JSON."""
    if a.p_K is None:
        return {"picture": str(a.path), "error": a.error}
    classes = [
        {"class": trained.classes[i], "name": trained.name(i), "probability": float(a.p_K[i])}
        for i in best(a.p_K, top)
    ]
    return {"picture": str(a.path), "repairs": a.repairs, "predictions": classes}


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        a = parse(Arguments, "python -m trainer.predict", Arguments(), argv, ranks=False)
        if a.top < 1:
            raise UserError(f"--top must be at least 1, not {a.top}.")
        paths = find(a.pictures)
        trained = open_trained(a.model, a.checkpoint, a.device)
        bar = progress.images(len(paths), 0, "images", leave=False)
        found: list[Answer] = []
        for answer in answers(trained, paths, a.ten_crop):
            if a.annotate and answer.p_K is not None and answer.picture_SS3 is not None:
                target = a.annotate / f"{len(found):05d}-{answer.path.stem}.png"
                annotated.write(trained, answer.picture_SS3, answer.p_K, target)
            found.append(Answer(answer.path, answer.error, answer.repairs, None, answer.p_K))
            bar.update(1)
        bar.close()
        if a.format == "json":
            print(json.dumps([plain(trained, answer, a.top) for answer in found], indent=1))
        else:
            rich.print(table(trained, found, min(a.top, len(trained.classes))))
        unreadable = [answer for answer in found if answer.error]
        for answer in unreadable:
            print(f"error: {answer.path} {answer.error}", file=sys.stderr)
        raise SystemExit(1 if unreadable else 0)


if __name__ == "__main__":
    main()
