"""Disk, memory, and the loopback interface."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

from trainer.doctor.finding import ROOT, Finding, attempt

# Parameters and momentum of the whole network in float32: 60,965,224 x 2 x 4 bytes = 488 MB.
CHECKPOINT = 60_965_224 * 2 * 4
KEPT = 6  # the newest three and the one before, the best, and the one that is being written
# Half of the parameters with gradient and momentum, 366 MB, activations of 64 pictures, torch itself.
RANK = 2 * 2**30
SHARED = 64 * 2**20  # bytes of /dev/shm a rank; containers often give 64 MiB to all
SHARED_MEMORY = Path("/dev/shm")

SAMPLE = """
import json, numpy as np, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from preprocess.store import open_store
try:
    store = open_store(Path({store!r}))
    for split in (store.train, store.val):
        if len(split):
            split.read(np.unique(np.linspace(0, len(split) - 1, 64).astype(np.int64)))
    state = "ok" if store.image_size >= 224 else "small"
    print(json.dumps([state, len(store.classes), len(store.train), len(store.val), store.fingerprint,
                      store.image_size]))
except ValueError as error:
    print(json.dumps(["damaged", str(error)]))
"""


def store(path: Path) -> Finding:
    """The pictures: every shard's size, and the checksums of 64 of each split."""
    if not path.exists():
        make = f"snakemake preprocess --config imagenet=PATH store={path}"
        return Finding("warn", "store", f"there is none at {path}", make)
    root = str(ROOT)
    tried = attempt(script=SAMPLE.format(root=root, store=str(path)))
    if not tried.values:
        return Finding("fail", "store", f"it cannot be looked at: {tried.failure}", "mend the packages first")
    if tried.values[-1][0] == "damaged":
        return Finding("fail", "store", tried.values[-1][1], f"python -m preprocess.verify --store {path}")
    state, classes, train, val, fingerprint, side = tried.values[-1]
    if state == "small":
        says = f"its images have {side}x{side} pixels, and the network crops 224x224"
        return Finding("fail", "store", says, "snakemake preprocess --config image_size=256 store=PATH")
    says = (
        f"{classes} classes, {train:,} + {val:,} pictures, fingerprint {fingerprint}, a sample read and sound"
    )
    if not val:
        return Finding("warn", "store", says, "without validation pictures no error can be measured")
    return Finding("ok", "store", says)


def disk(runs: Path) -> Finding:
    """Room for checkpoints, and whether the folder can be written."""
    folder = runs.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("fail", "disk", f"{folder} cannot be written: {error.strerror}", "name another --run")
    free = shutil.disk_usage(folder).free
    says = f"{_gb(free)} free at {folder}; a run keeps up to {_gb(KEPT * CHECKPOINT)} of checkpoints"
    if free < 2 * CHECKPOINT:
        return Finding("fail", "disk", says, "make room, or name another --run")
    if free < KEPT * CHECKPOINT:
        return Finding("warn", "disk", says, "make room, or keep fewer: --keep 1")
    return Finding("ok", "disk", says)


def memory(ranks: int) -> Finding:
    """Memory that is free, and what ranks of one host share."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    says = f"{_gb(free)} free, about {_gb(RANK * ranks)} for {ranks} ranks"
    if free < RANK * ranks:
        return Finding("warn", "memory", says, "fewer ranks, or a smaller --batch-size")
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < SHARED * ranks:
        room = _gb(shutil.disk_usage(SHARED_MEMORY).free)
        return Finding("warn", "memory", f"{says}; {room} in /dev/shm", "docker run --shm-size=1g")
    return Finding("ok", "memory", says)


def left_behind() -> dict[Path, int]:
    """This user's files of MPICH's ranks in shared memory that no process has mapped, and their bytes."""
    files = list(SHARED_MEMORY.glob("mpich_shm_*"))
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # another user's, or it has just ended
            mapped |= {line.split()[-1] for line in maps.read_text().splitlines() if "mpich_shm_" in line}
    found = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # its ranks have just ended, and in order
            if str(file) not in mapped and file.stat().st_uid == os.getuid():
                found[file] = file.stat().st_size
    return found


def shared_memory() -> list[Finding]:
    """What killed ranks have left: about 1 MB each, which no later start removes."""
    found = left_behind()
    if not found:
        return []
    says = f"{sum(found.values()) / 1e6:.0f} MB of {SHARED_MEMORY} are left from ranks that were killed"
    return [Finding("warn", "shared memory", says, f"rm {SHARED_MEMORY}/mpich_shm_*, while no ranks start")]


def loopback() -> Finding:
    """Ranks, Dask and the live page talk over 127.0.0.1; MPI looks up the host's own name."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=2).close()
            port = server.getsockname()[1]
    except OSError as error:
        remedy = "a firewall or a container without loopback: ip link set lo up"
        return Finding("fail", "loopback", f"127.0.0.1 cannot be reached: {error.strerror or error}", remedy)
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        says = f"127.0.0.1 answers, but the name {name} has no address"
        return Finding("warn", "loopback", says, f"add to /etc/hosts: 127.0.0.1 {name}")
    return Finding("ok", "loopback", f"127.0.0.1 answers (tried port {port}), {name} has an address")


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Cores, and whether they multiply bfloat16."""
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    fast = "avx512_bf16" in flags or "amx_bf16" in flags
    mine, all_ = len(os.sched_getaffinity(0)), os.cpu_count()
    says = (
        f"{mine} of {all_} cores, {'with' if fast else 'without'} bfloat16 instructions: "
        f"--precision auto is {'bfloat16' if fast else 'float32'} on the CPU"
    )
    return Finding("ok", "processor", says)


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
