"""The lines that a run prints at its start and at its end: settings; errors next to published ones."""

from __future__ import annotations

import dataclasses
import shlex
import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from preprocess.shared.units import duration
from trainer.config import GROUPS, Config, flag
from trainer.runs.log import LogReader, having, unreadable_lines

IMAGENET = (1000, 50_000)  # classes and validation images of ILSVRC-2012

# Top-1 and top-5 error, %, of one network. Krizhevsky et al. (2012), tables 1 and 2 and section 4.1; Caffe's
# reference AlexNet as its own model card gives it. The paper has no centre crop on ILSVRC-2012.
PUBLISHED = (
    ("paper, ten crops, ILSVRC-2012 validation", 40.7, 18.2),
    ("paper, ten crops, ILSVRC-2010 test", 37.5, 17.0),
    ("paper, centre crop, ILSVRC-2010 test", 39.0, 18.3),
    ("Caffe's reference, centre crop, ILSVRC-2012 validation", 42.9, 19.8),
)


def settings(config: Config) -> list[str]:
    """The resolved configuration, a paragraph a group of flags."""
    lines = []
    for part in GROUPS:
        group = getattr(config, part)
        values = ", ".join(
            f"{flag(f.name)[2:]} {_plain(getattr(group, f.name))}" for f in dataclasses.fields(group)
        )
        lines += textwrap.wrap(
            f"{part}: {values}", 110, subsequent_indent=" " * (len(part) + 2), break_on_hyphens=False
        )
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(str(v) for v in value) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def ending(run: Path, log: Path, steps: int, classes: int, validation_images: int) -> list[str]:
    """Lines on a complete run: errors next to the published ones, time, speed, and the next commands."""
    reader = LogReader(log)
    _, lines = reader.read(to_end=True)
    validated = having(lines, "val_top1_error", "val_top5_error", "epoch")
    ending_lines = [f"{run}: complete after {steps} steps{_time(lines)}"]
    if validated:
        best = min(validated, key=lambda line: line["val_top1_error"])
        table = []
        for which, line in (("best", best), ("last", validated[-1])):
            if which == "last" and line is best:
                continue
            name = f"this run, centre crop, {which}: epoch {line['epoch']:g}"
            table.append((name, 100 * line["val_top1_error"], 100 * line["val_top5_error"]))
        imagenet = (classes, validation_images) == IMAGENET
        table += PUBLISHED if imagenet else ()
        ending_lines.append(f"  {'error, %':56}{'top-1':>8}{'top-5':>8}")
        ending_lines += [f"  {name:56}{top1:8.2f}{top5:8.2f}" for name, top1, top5 in table]
        if imagenet:
            ending_lines.append(
                "  compare like with like: the centre crop with a centre crop, ten crops with ten"
            )
        else:
            ending_lines.append(
                f"  on {validation_images:,} images of {classes} classes; the published errors of AlexNet "
                "are for ImageNet's 1,000 and compare with nothing here"
            )
    if reader.unreadable:
        ending_lines.append(f"  {unreadable_lines(reader.unreadable)}")
    quoted = shlex.quote(str(run))
    name = "" if run.parent == Path("runs") else f" --run {quoted}"
    ending_lines += [
        f"  the error over ten crops:  python -m trainer.evaluate --ten-crop{name}",
        f"  curves and filters:        python -m trainer.watch {quoted}",
    ]
    return ending_lines


def _time(lines: list[dict[str, Any]]) -> str:
    """Hours, minutes and speed over all starts of the run."""
    spent, speed = seconds(lines), images_per_second(lines)
    text = f", {speed:,.1f} img/s in training" if speed else ""
    return f", {duration(spent)}{text}" if spent else text


def seconds(lines: Iterable[dict[str, Any]]) -> float:
    """The time that a run took, of all its starts, without the time between them."""
    total, since = 0.0, None
    for line in lines:
        if "time" in line:
            begins = since is None or "ranks" in line
            total += 0.0 if begins else line["time"] - since
            since = line["time"]
    return total


def images_per_second(lines: Iterable[dict[str, Any]]) -> float | None:
    """The median speed in training; None before the first."""
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return statistics.median(speeds) if speeds else None
