"""Functions that draw test images and run the commands."""

import contextlib
import hashlib
import io
import runpy
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from preprocess.containers.fetch import fetch
from preprocess.plan import Plan
from preprocess.sources.tables import Source
from tests.launch import exit_code

ROOT = Path(__file__).parents[2]
SIZE, SHARD_LENGTH = 224, 16  # of the small stores: the smallest images, many shards, little work
TIMEOUT = 600  # seconds, for a machine that is busy: all of them take less than ten on one that is not
CLASSES = ("n01", "n02", "n03")


def draw(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth random image, like a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def unpacked(root: Path, files: dict[str, bytes]) -> Path:
    """A folder of these files."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def images_of(source: Source, split: str, store: Path | None = None) -> list[tuple[str, bytes]]:
    """The class and the bytes of every image of a split, sorted, as a worker reads them for a store."""
    plan = Plan(
        kind=source.kind,
        source=str(source.root),
        archives=source.archives,
        classes=source.classes,
        class_names=None,
        image_size=SIZE,
        shard_length=SHARD_LENGTH,
        draft=False,
        seed=0,
        counts={},
    )
    rows = getattr(source, split)
    with tempfile.TemporaryDirectory() as other:
        contents = [requested.read() for requested in fetch(store or Path(other), plan, rows)]
    return sorted((source.classes[label], data) for label, data in zip(rows["label"], contents, strict=True))


def snakemake(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the user's command in the project's folder."""
    command = [sys.executable, "-m", "snakemake", "preprocess", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)


def stage(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run one stage by itself: in this process, but for the one that starts workers."""
    command = [sys.executable, "-m", f"preprocess.{name}", *map(str, words)]
    if name == "shard":
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    out, err = io.StringIO(), io.StringIO()
    with (
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),  # that it was imported before
        mock.patch.object(sys, "argv", command[2:]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = exit_code(lambda: runpy.run_module(f"preprocess.{name}", run_name="__main__"))
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def make_store(imagenet: Path, store: Path, *words: object, skip: bool = False) -> Path:
    """Make a store by the stages alone; `words`: flags of the first one."""
    end = ("--on-error", "skip") if skip else ()
    index, shard = ("index", "--imagenet", imagenet, *words, *end), ("shard", *end)
    for name, *more in (index, shard, ("statistics",), ("verify",)):
        done = stage(name, "--store", store, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    return store


def settings(imagenet: Path, store: Path) -> tuple[str, ...]:
    """The end of a snakemake command that makes a small store."""
    return (
        "--config",
        f"imagenet={imagenet}",
        f"store={store}",
        f"image_size={SIZE}",
        f"shard_length={SHARD_LENGTH}",
    )


def content(store: Path) -> dict[str, str]:
    """SHA-256 of every file of a store, without its hidden folder."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and ".preprocess" not in path.parts
    }
