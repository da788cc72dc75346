"""The drawing of a run's figures into its folder."""

from __future__ import annotations

import functools
import shlex
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer.data.batches import open_training_data
from trainer.errors import UserError, require_output
from trainer.evaluation.pretrained import load
from trainer.figures import NAMES, Name, confusion, curves, filters, neighbours, predictions, style, views
from trainer.figures.run_data import LIMIT_CPU, LIMIT_GPU, RunData
from trainer.runs import run_folder
from trainer.runs.log import LogReader, read_log, unreadable_lines
from trainer.runs.training_set import as_seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = run_folder.FIGURES

DRAWERS: dict[Name, Callable[[RunData], Figure]] = {
    "learning-curves": curves.draw,
    "conv1-filters": filters.draw,
    "predictions": predictions.draw,
    "neighbours": neighbours.draw,
    "confusion": confusion.draw,
    "ten-crops": views.ten_crops,
    "pca-colour": views.color_range,
}
NEED_VALIDATION = ("predictions", "neighbours", "confusion")


def draw(
    run: Path,
    *,
    names: Iterable[Name] = NAMES,
    checkpoint: Literal["best", "latest"] = "best",
    store: Path | None = None,
    device: str = "auto",
    images: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw a run's figures into run/figures; returns the files.

    Args:
        names: the figures to draw.
        checkpoint: the run's, best or latest.
        store: another store than the one that the run was trained on.
        images: the largest number of images of a split; None: LIMIT_CPU or LIMIT_GPU.
        say: is called with a line for each figure that is drawn or cannot be drawn.

    Raises UserError when there is no such run or store, or no matplotlib. An error in one figure is reported
    by `say`, and the others are drawn.
    """
    style.require_matplotlib()
    network = load(run, checkpoint, device)
    seen, remarks = as_seen(open_training_data(store or network.config.run.store), network.trained_on)
    for remark in remarks:
        say(remark)
    limit = images or (LIMIT_GPU if network.device.type == "cuda" else LIMIT_CPU)
    reader = LogReader(run / run_folder.LOG)
    _, lines = reader.read(to_end=True)
    if reader.unreadable:
        say(unreadable_lines(reader.unreadable))
    data = RunData(network, seen, lines, limit)
    written: list[Path] = []
    for name in names:
        if name in NEED_VALIDATION and not len(seen.val):
            say(f"{name}: left out, for the store has no validation images")
            continue
        try:
            paths = [run / FOLDER / f"{name}.{kind}" for kind in ("png", "svg")]
            style.save(functools.partial(DRAWERS[name], data), paths)
        except UserError as error:
            say(f"{name}: left out, for {error}")
            continue
        except Exception as error:  # or the other figures would not be drawn
            say(f"{name}: not drawn, for {type(error).__name__}: {error}")
            continue
        say(f"{name}: {paths[0]}")
        written += paths
    return written


def draw_together(of: Sequence[Path], path: Path) -> None:
    """Draw the learning curves of several runs in one figure; `path` ends in .png, .svg or .pdf.

    Raises UserError for a folder that is not a run's, and for a run without losses.
    """
    style.require_matplotlib()
    require_output(path, *style.FORMATS)
    for run in of:
        run_folder.read_config(run)
    logs = {run.name: read_log(run / run_folder.LOG) for run in of}
    style.save(functools.partial(curves.together, logs), [path])


def at_the_end(run: Path, store: Path, device: str, say: Callable[[str], None]) -> None:
    """Draw the figures of a complete run. Errors are reported by `say`, not raised: the run has succeeded."""
    try:
        written = draw(run, store=store, device=device, say=lambda line: None)
        say(f"{len(written) // 2} figures in {run / FOLDER}")
    except UserError as error:
        say(f"no figures: {error}")
    except Exception:
        last = traceback.format_exc().splitlines()[-1]
        say(f"no figures: {last}; draw them with: python -m trainer.figures {shlex.quote(str(run))}")
