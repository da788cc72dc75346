"""Of the processes that meet a loop at once, one compiles it."""

import fcntl
import importlib
import os
import shutil
import subprocess
import sys

import pytest

from preprocess.shared import cached_njit
from tests.launch import ROOT

LOOPS = """
from preprocess.shared.cached_njit import cached_njit

@cached_njit(nogil=True)
def inner(x):
    return x + 1

@cached_njit(nogil=True)
def outer(x):
    return 2 * inner(x)
"""

CALLS = """
import sys

import pytest
sys.path[:0] = [{folder!r}, {root!r}]
import loops
print("ready", flush=True)
sys.stdin.readline()
assert loops.outer(3) == 8
counts = [loops.inner.stats, loops.outer.stats]
print(*(sum(count.cache_misses.values()) for count in counts))
"""


def test_one_of_two_processes_compiles(tmp_path):
    (tmp_path / "loops.py").write_text(LOOPS)
    program = CALLS.format(folder=str(tmp_path), root=str(ROOT))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", program], **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    inner, outer = (sum(int(end[place]) for end in ends) for place in (0, 1))
    assert outer == 1
    assert inner == 1


def test_who_waits_in_vain_compiles_for_itself(tmp_path, monkeypatch):
    (tmp_path / "stopped_loops.py").write_text(LOOPS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cached_njit, "PATIENCE", 0.2)
    loops = importlib.import_module("stopped_loops")
    cache = loops.inner._cache
    cache._impl.locator.ensure_cache_path()
    with (tmp_path / "__pycache__" / f"{cache._impl.filename_base}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert loops.inner(3) == 4
    assert sum(loops.inner.stats.cache_misses.values()) == 1


def test_a_disk_without_locks_compiles_too(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError("no locks available")

    (tmp_path / "unlocked_loops.py").write_text(LOOPS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert importlib.import_module("unlocked_loops").inner(3) == 4


READ_ONLY = """
import os, sys
sys.path[:0] = [{folder!r}, {root!r}]
import loops
assert loops.outer(3) == 8
print(os.path.relpath(loops.outer._cache.cache_path or ".", {temporary!r}))
"""


@pytest.mark.parametrize("place", ["a folder for temporary files", "no folder", "a folder open to others"])
def test_without_a_place_of_its_own_the_cache_is_in_a_private_folder_or_there_is_none(place, tmp_path):
    folder, temporary = tmp_path / "installed", tmp_path / "tmp"
    folder.mkdir()
    temporary.mkdir()
    (folder / "loops.py").write_text(LOOPS)
    private = temporary / f"two-tower-alexnet-{os.getuid()}"
    if place == "no folder":
        temporary.chmod(0o500)
    if place == "a folder open to others":
        private.mkdir()
        private.chmod(0o777)
    folder.chmod(0o500)
    program = READ_ONLY.format(folder=str(folder), root=str(ROOT), temporary=str(temporary))
    words = [sys.executable, "-c", program]
    if os.getuid() == 0:  # the owner's permissions hold for root without its capabilities
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv of util-linux, for root may write anywhere")
        words = ["setpriv", "--bounding-set=-all", *words]
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "TMPDIR": str(temporary)}
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if place == "a folder for temporary files":
        assert done.stdout.startswith(private.name)
        assert private.stat().st_mode & 0o777 == 0o700
        assert list(private.rglob("*.nbi"))
    else:
        assert not list(temporary.rglob("*.nbi"))
