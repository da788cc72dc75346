"""Of the processes that meet a loop at once, one compiles it."""

import fcntl
import importlib
import subprocess
import sys

from tests.launch import ROOT
from trainer.kernels import cached_njit

LOOPS = """
from trainer.kernels.cached_njit import cached_njit

@cached_njit(nogil=True)
def inner(x):
    return x + 1

@cached_njit(nogil=True)
def outer(x):
    return 2 * inner(x)
"""

CALLS = """
import sys
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
