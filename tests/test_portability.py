"""The miniature from images to predictions where Linux's own calls, MPI and the compiled loops are missing.

macOS lacks these calls, and starts processes by "spawn". No Mac is used here.
"""

import json
import os
import sys

from PIL import Image

from tests.launch import NETWORK, ROOT, run

WITHOUT = """
import multiprocessing, os, sys

for name in ("sched_getaffinity", "preadv", "posix_fadvise", "fdatasync", "O_DIRECT", "copy_file_range"):
    delattr(os, name)
for name in ("mpi4py.MPI", "preprocess.shards._read", "preprocess.pictures._square"):
    sys.modules[name] = None
sys.modules["trainer.parallel._interrupt"] = None

LINUX = ("/proc/", "/sys/", "/dev/shm")
stat = os.stat


def refuse(event, arguments):
    if event == "open" and str(arguments[0]).startswith(LINUX):
        frame = sys._getframe()
        while frame:
            if frame.f_globals.get("__name__", "").startswith("psutil"):
                return  # it has a module for each system, and reads /proc in the one for Linux
            frame = frame.f_back
        raise FileNotFoundError(2, "No such file or directory", arguments[0])


def stat_elsewhere(path, *arguments, **named):
    if str(path).startswith(LINUX):
        raise FileNotFoundError(2, "No such file or directory", path)
    return stat(path, *arguments, **named)


sys.addaudithook(refuse)
os.stat = stat_elsewhere
multiprocessing.set_start_method("spawn")
"""
"""Python runs it at every start, as sitecustomize.py: in the workers of Dask too."""

CHECK = """
import importlib, os, pathlib
assert not hasattr(os, "sched_getaffinity") and not pathlib.Path("/proc/cpuinfo").exists()
for name in ("mpi4py.MPI", "preprocess.shards._read"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise AssertionError(name)
"""

LIGHT = """
import sys
# torch loads it, half a second, for tensors on meta and for gradients that are given to backward.
assert "sympy" not in sys.modules
"""


def test_the_miniature_is_preprocessed_trained_evaluated_and_predicted_without_linux_and_mpi(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    (tmp_path / "check.py").write_text(CHECK)
    (tmp_path / "light.py").write_text(LIGHT)
    Image.new("RGB", (300, 280), "red").save(tmp_path / "red.png")
    work, log = ("--store", "s.zarr"), ("--log", "log.txt")
    prepare = [
        ["check"],
        ["preprocess.miniature", "imagenet", "--train", "20", "--val", "20"],
        ["preprocess.index", "--imagenet", "imagenet", *work, *log],
        *(
            [f"preprocess.{stage}", *work, *log]
            for stage in ("shard", "statistics", "verify", "report", "store")
        ),
    ]
    train = ["trainer.run", *work, *NETWORK, "--batch-size", "4", "--no-figures", "--run", "runs/small"]
    use = [
        ["check"],
        [*train, "--dry-run"],
        [*train, "--max-steps", "2"],
        ["trainer.evaluate"],
        ["trainer.predict", "red.png"],
        ["light"],
    ]
    printed = []
    for name, commands in (("prepare", prepare), ("use", use)):
        (tmp_path / f"{name}.json").write_text(json.dumps(commands))
        start = (sys.executable, "-m", "tests.commands", f"{name}.json")
        done = run(*start, cwd=tmp_path, timeout=280, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        printed.append(done.stdout)
    assert "is ready: 10 classes, 20 images for training" in printed[0]
    assert "1 process with both towers" in printed[1]
    assert "complete after 2 steps" in printed[1]
    assert "│     20 │" in printed[1]  # images that were evaluated
    assert "red.png" in printed[1]
