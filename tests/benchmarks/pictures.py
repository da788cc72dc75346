"""The JPEGs and the small store for the stages preprocess and loader, made once in a run of the bench."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from preprocess.containers.fetch import fetch
from preprocess.errors import UserError
from preprocess.plan import load_plan, load_table
from tests.benchmarks.settings import Settings
from tests.launch import ROOT


def sample(settings: Settings, scratch: Path) -> Path:
    """Make class folders with so many JPEGs, drawn at random from the source; one of them is in val/ too."""
    folder = scratch / "pictures"
    if folder.is_dir():
        return folder
    source, imagenet = scratch / "source", settings.imagenet or _miniature(settings.pictures, scratch)
    command("-m", "preprocess.index", "--imagenet", str(imagenet.absolute()), "--store", str(source))
    plan = load_plan(source)
    rows = load_table(source, "train")[: settings.pictures]  # in shuffled order
    for number, (label, picture) in enumerate(zip(rows["label"], fetch(source, plan, rows), strict=True)):
        data = picture.read()
        for part in ("train", "val")[: 2 if number == 0 else 1]:
            target = folder / part / plan.classes[label] / f"{number:06d}{Path(picture.name).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return folder


def small_store(settings: Settings, scratch: Path) -> Path:
    """Make a store of these JPEGs by the user's own command."""
    store = scratch / "imagenet256.zarr"
    if not store.exists():
        imagenet = sample(settings, scratch)
        command("-m", "snakemake", "preprocess", "--config", f"imagenet={imagenet}", f"store={store}")
    return store


def command(*words: str) -> None:
    """Run Python in the project's folder without output. Raises UserError with its stderr if it fails."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr or done.stdout).strip().removeprefix("error: "))


def _miniature(pictures: int, scratch: Path) -> Path:
    folder = scratch / "imagenet"
    count = max(20, -(-pictures // 10) * 10)  # the miniature has ten classes of equal size
    command("-m", "preprocess.miniature", str(folder), "--train", str(count), "--val", "20")
    return folder
