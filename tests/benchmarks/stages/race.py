"""Time from JPEGs to a validation error: this project's commands, and a training as users write it."""

from __future__ import annotations

import json
import shlex
import sys
import tarfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from preprocess.errors import UserError
from preprocess.shared import progress
from tests.benchmarks.harness import Contender, Row
from tests.benchmarks.race import Runner, race
from tests.benchmarks.settings import Settings
from trainer.figures import style
from trainer.runs.log import having, read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGENETTE = Path("data/imagenette")
OURS = "snakemake preprocess; mpirun -n 2 python -m trainer.run"
PEER = "the model zoos' AlexNet in torch, bfloat16 autocast, channels_last, DataLoader from the JPEGs, SGD"


def rows(settings: Settings, scratch: Path) -> list[Row]:
    """One row for each error. The race is run once, whatever --repeats says."""
    images = folder(settings, scratch)

    @cache
    def runners() -> dict[str, Runner]:
        found = {"ours": ours(images, scratch), "peer": peer(images, scratch, settings)}
        race(
            list(found.values()),
            min(settings.race_errors) / 100,
            settings.race_turn,
            60 * settings.race_minutes,
            progress.write,
        )
        write(settings.json, found)
        return found

    def speed(name: str, error: float) -> float:
        seconds = runners()[name].seconds_to(error / 100)
        return 3600 / seconds if seconds else 0.0

    return [
        Row(
            stage=f"race to {error:g} %",
            unit="1/h",
            ours=Contender(OURS, partial(speed, "ours", error)),
            peer=Contender(PEER, partial(speed, "peer", error)),
        )
        for error in settings.race_errors
    ]


def folder(settings: Settings, scratch: Path) -> Path:
    """Class folders train/ and val/ of JPEGs. Raises UserError where there are none."""
    images = (settings.imagenet or IMAGENETTE).absolute()
    if not images.exists():
        raise UserError(
            f"race needs photographs: unpack or link Imagenette as {IMAGENETTE}, or name with --imagenet a "
            "folder or a tar of train/CLASS/ and val/CLASS/."
        )
    if images.is_file():
        images, archive = scratch / "photographs", images
        with tarfile.open(archive) as file:
            file.extractall(images, filter="data")
    if not all((images / part).is_dir() for part in ("train", "val")):
        raise UserError(f"{settings.imagenet or IMAGENETTE} has no train/CLASS/ and val/CLASS/ with images.")
    return images


def ours(images: Path, scratch: Path) -> Runner:
    """The user's own commands, from the JPEGs on."""
    store, run = scratch / "race.zarr", scratch / "race-run"
    python = shlex.quote(sys.executable)
    script = (
        f"{python} -m snakemake preprocess --config imagenet={shlex.quote(str(images))} store={store} && "
        f"exec mpirun -n 2 {python} -m trainer.run --store {store} --run {run} --no-figures"
    )
    return Runner(
        "ours", ("bash", "-c", script), partial(logged, run / "metrics.jsonl"), scratch / "ours.txt"
    )


def logged(log: Path) -> list[float]:
    """The validation errors in a run's log."""
    return [line["val_top1_error"] for line in having(read_log(log), "val_top1_error")]


def peer(images: Path, scratch: Path, settings: Settings) -> Runner:
    """The training in torch, which writes an error a line."""
    errors = scratch / "peer-errors.txt"
    command = (sys.executable, "-m", "tests.benchmarks.workers.zoo", str(images), str(errors))

    def read() -> list[float]:
        return [float(line) for line in errors.read_text().splitlines()] if errors.exists() else []

    return Runner("peer", command, read, scratch / "peer.txt")


def write(bench: Path, runners: dict[str, Runner]) -> None:
    """Write both curves next to the bench's JSON, as JSON and as a picture."""
    target = bench.with_name(f"{bench.stem}-curves.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    curves = {name: {"what": r.what, "curve": r.curve} for name, r in runners.items()}
    target.write_text(json.dumps(curves, indent=1) + "\n")
    draw(target.with_suffix(".png"), {name: r.curve for name, r in runners.items()})


def draw(path: Path, curves: dict[str, list[tuple[float, float]]]) -> None:
    """Draw the errors over the minutes. curves: (seconds, error 0..1) of `ours` and of `peer`."""

    def figure() -> Figure:
        drawn = style.figure(3.4, "Top-1 validation error over the time of training")
        axes = drawn.subplots()
        labels = {"ours": "two towers, with preprocessing", "peer": "model zoos' AlexNet in torch"}
        for (name, curve), color, marker in zip(
            curves.items(), (style.BLUE, style.VERMILLION), "os", strict=True
        ):
            at = [seconds / 60 for seconds, _ in curve]
            axes.plot(
                at, [100 * e for _, e in curve], color=color, marker=marker, markersize=3, label=labels[name]
            )
        axes.set(xlabel="minutes", ylabel="top-1 validation error, %", xlim=(0, None), ylim=(0, 90))
        axes.legend()
        return drawn

    style.save(figure, [path])
