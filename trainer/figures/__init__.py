"""Figures of a run, as PNG and SVG: drawn at its end, and by `python -m trainer.figures RUN`."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.pretrained import open_trained
from trainer.figures import confusion, curves, filters, neighbours, predictions, style, views
from trainer.figures.subject import ON_CPU, ON_GPU, Subject
from trainer.runs import run_folder
from trainer.runs.log import read_log
from trainer.runs.training_set import as_seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"

Name = Literal[
    "learning-curves",
    "conv1-filters",
    "predictions",
    "neighbours",
    "confusion",
    "ten-crops",
    "pca-colour",
]
NAMES: tuple[Name, ...] = get_args(Name)
DRAWERS: dict[Name, Callable[[Subject], Figure]] = {
    "learning-curves": curves.draw,
    "conv1-filters": filters.draw,
    "predictions": predictions.draw,
    "neighbours": neighbours.draw,
    "confusion": confusion.draw,
    "ten-crops": views.ten_crops,
    "pca-colour": views.color_range,
}
OF_VALIDATION = ("predictions", "neighbours", "confusion")


def draw(
    run: Path,
    *,
    names: Iterable[Name] = NAMES,
    which: str = "best",
    store: Path | None = None,
    device: str = "auto",
    pictures: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw a run's figures into run/figures and return the files.

    Args:
        names: which figures.
        which: of the run's checkpoints: best or latest.
        store: another store than the one the run was trained on.
        pictures: of a split to look at; none is about half a minute of work.
        say: takes a line for each figure that is drawn or cannot be.

    Raises:
        UserError: there is no such run or store, or no matplotlib. A figure that fails alone is only said.
    """
    style.available()
    trained = open_trained(run, which, device)
    data, remarks = as_seen(open_data(store or trained.config.run.store), trained.trained_on)
    for remark in remarks:
        say(remark)
    limit = pictures or (ON_GPU if trained.device.type == "cuda" else ON_CPU)
    subject = Subject(trained, data, read_log(run / run_folder.LOG), limit)
    written: list[Path] = []
    for name in names:
        if name in OF_VALIDATION and not len(data.val):
            say(f"{name}: left out, for the store has no validation pictures")
            continue
        try:
            paths = [run / FOLDER / f"{name}.{kind}" for kind in ("png", "svg")]
            style.save(functools.partial(DRAWERS[name], subject), paths)
        except UserError as error:
            say(f"{name}: left out, for {error}")
            continue
        except Exception as error:  # the other figures are worth having
            say(f"{name}: not drawn, for {type(error).__name__}: {error}")
            continue
        say(f"{name}: {paths[0]}")
        written += paths
    return written


def draw_together(of: Sequence[Path], path: Path) -> None:
    """The learning curves of several runs in one picture; `path` ends in .png or .svg.

    Raises UserError for a folder that is not a run's, and for one without losses.
    """
    style.available()
    for run in of:
        run_folder.read_config(run)
    logs = {run.name: read_log(run / run_folder.LOG) for run in of}
    style.save(functools.partial(curves.together, logs), [path])


def at_the_end(run: Path, store: Path, device: str, say: Callable[[str], None]) -> None:
    """Draw what can be drawn of a run that is complete; nothing that goes wrong here can fail it."""
    try:
        written = draw(run, store=store, device=device, say=lambda line: None)
        say(f"{len(written) // 2} figures in {run / FOLDER}")
    except UserError as error:
        say(f"no figures: {error}")
    except Exception:
        last = traceback.format_exc().splitlines()[-1]
        say(f"no figures: {last}; draw them with: python -m trainer.figures {run}")
