"""The small store that many tests share, made by the real commands."""

from pathlib import Path

from tests.launch import ROOT, run


def make_tiny_store(folder: Path) -> Path:
    """A miniature of 60 + 30 pictures, which 4 or 8 ranks do not divide, made by `snakemake preprocess`."""
    imagenet, store = folder / "imagenet", folder / "imagenet256.zarr"
    for command in (
        ["python", "-m", "preprocess.miniature", str(imagenet), "--train", "60", "--val", "30"],
        ["snakemake", "preprocess", "--config", f"imagenet={imagenet}", f"store={store}", "shard_length=16"],
    ):
        done = run(*command, cwd=ROOT, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    return store
