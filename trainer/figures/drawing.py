"""The drawing of a run's figures, or an exported file's, into a folder."""

from __future__ import annotations

import functools
import shlex
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from preprocess.store import Store
from trainer.data.batches import open_training_data
from trainer.errors import UserError, require_output
from trainer.evaluation.pretrained import load
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.figures import (
    NAMES,
    Layer,
    Name,
    activations,
    confusion,
    curves,
    filters,
    neighbours,
    predictions,
    strongest,
    style,
    views,
)
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
    "strongest": strongest.draw,
    "activations": activations.draw,
    "predictions": predictions.draw,
    "neighbours": neighbours.draw,
    "confusion": confusion.draw,
    "ten-crops": views.ten_crops,
    "pca-colour": views.color_range,
}


def draw(
    path: Path,
    *,
    names: Iterable[Name] = NAMES,
    checkpoint: Literal["best", "latest"] = "best",
    store: Path | None = None,
    device: str = "auto",
    images: int | None = None,
    layer: Layer | None = None,
    units: tuple[int, ...] = (),
    to: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draw the figures of a run, a checkpoint or an exported file; returns the files.

    Args:
        names: the figures to draw.
        checkpoint: the run's, best or latest.
        store: another store than the one that the run was trained on.
        images: the largest number of images of a split; None: LIMIT_CPU or LIMIT_GPU.
        layer, units: what `strongest` shows.
        to: the folder. None: run/figures; below it one with the checkpoint's name, where that was given;
            figures/ next to an exported file.
        say: is called with a line for each figure that is drawn or cannot be drawn.

    Raises UserError when there is no such network, no such `store`, no access to the folder, or no
    matplotlib. An error in one figure is reported by `say`, and the others are drawn. Without images, so are
    the figures that need none.
    """
    style.require_matplotlib()
    network = load(path, checkpoint, device)
    folder = to or _folder(path, network)
    require_output(folder / "figure.png")
    lines: list[dict[str, Any]] = []
    if network.run:
        reader = LogReader(network.run / run_folder.LOG)
        _, lines = reader.read(to_end=True)
        if reader.unreadable:
            say(unreadable_lines(reader.unreadable))
    opened = _open(network, store, say)
    limit = images or (LIMIT_GPU if network.device.type == "cuda" else LIMIT_CPU)
    data = RunData(network, opened, lines, limit, layer, units)
    written: list[Path] = []
    for name in names:
        try:
            stem = f"{name}-{layer}" if name == "strongest" and layer else name
            paths = [folder / f"{stem}.{kind}" for kind in ("png", "svg")]
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


def _open(network: PretrainedNetwork, path: Path | None, say: Callable[[str], None]) -> Store | None:
    """The store at `path`, or the run's own, as the network sees it; None where there is none of its own.

    Raises UserError when the store at `path` cannot be used.
    """
    if not path and not network.run:
        return None
    try:
        own = open_training_data(path or network.config.run.store)
        seen, remarks = as_seen(own, network.trained_on)
    except UserError as error:
        if path:
            raise
        say(f"no images: {error}")
        return None
    for remark in remarks:
        say(remark)
    return seen


def _folder(path: Path, network: PretrainedNetwork) -> Path:
    """Where the figures of this run, checkpoint or file go."""
    if not network.run:
        return path.parent / FOLDER
    is_run = (path / run_folder.CONFIG).exists()
    return network.run / FOLDER / ("" if is_run else path.name)


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
