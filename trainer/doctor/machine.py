"""The store, the disk, memory, the loopback interface and the processor."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import tempfile
from pathlib import Path

from preprocess.shared.cores import available_cores
from preprocess.shared.files import check_output
from preprocess.shared.units import size
from trainer.doctor.finding import ROOT, Finding, attempt

# Parameters and momentum of the whole network in float32: 60,965,224 x 2 x 4 bytes = 488 MB.
CHECKPOINT = 60_965_224 * 2 * 4
KEPT = 6  # the newest three, the one before them, the best, and the one that is being written
# Half of the parameters with gradient and momentum, 366 MB; activations of 64 images; torch itself.
RANK = 2 * 2**30
SHARED = 64 * 2**20  # bytes of /dev/shm per rank; containers often have 64 MiB for all ranks
SHARED_MEMORY = Path("/dev/shm")

SAMPLE = """
import json, numpy as np, sys
import shlex
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
    """The store: the size of every shard, and the checksums of 64 images of each split."""
    if not path.exists():
        make = f"snakemake preprocess --config imagenet=PATH store={path}"
        return Finding("warn", "store", f"there is none at {path}", make)
    root = str(ROOT)
    outcome = attempt(script=SAMPLE.format(root=root, store=str(path)))
    if not outcome.values:
        text = f"it cannot be checked: {outcome.failure}"
        return Finding("fail", "store", text, "repair the packages first")
    if outcome.values[-1][0] == "damaged":
        return Finding(
            "fail",
            "store",
            outcome.values[-1][1],
            f"python -m preprocess.verify --store {shlex.quote(str(path))}",
        )
    state, classes, train, val, fingerprint, side = outcome.values[-1]
    if state == "small":
        text = f"its images have {side}x{side} pixels, and the network crops 224x224"
        return Finding("fail", "store", text, "snakemake preprocess --config image_size=256 store=PATH")
    text = (
        f"{classes} classes, {train:,} + {val:,} images, fingerprint {fingerprint}, a sample read and intact"
    )
    if not train:
        return Finding("warn", "store", text, "it is for evaluation alone: name another store to train on")
    if not val:
        return Finding("warn", "store", text, "without validation images no error can be measured")
    return Finding("ok", "store", text)


def disk(runs: Path) -> Finding:
    """Free space for checkpoints, and whether the folder can be written."""
    folder = runs.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("fail", "disk", f"{folder} cannot be written: {error.strerror}", "name another --run")
    free = shutil.disk_usage(folder).free
    text = f"{size(free)} free at {folder}; a run keeps at most {size(KEPT * CHECKPOINT)} of checkpoints"
    if free < 2 * CHECKPOINT:
        return Finding("fail", "disk", text, "free some space, or name another --run")
    if free < KEPT * CHECKPOINT:
        return Finding("warn", "disk", text, "free some space, or keep fewer: --keep 1")
    return Finding("ok", "disk", text)


def home() -> list[Finding]:
    """Whether Snakemake can keep its files in the user's cache, without which it does not start."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        check_output(cache / "snakemake" / "any file")
    except OSError as error:
        text = f"{cache} cannot be written: {error.strerror}; Snakemake keeps files there"
        return [Finding("warn", "home", text, "export XDG_CACHE_HOME=FOLDER, one that you can write to")]
    return []


def memory(ranks: int, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Free memory, and free space in /dev/shm, by which the ranks of a host communicate."""
    needed = f"about {size(RANK * ranks)} for {ranks} ranks"
    if not meminfo.exists():
        return Finding("ok", "memory", f"{needed}; this system has no {meminfo}")
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    text = f"{size(free)} free, {needed}"
    if free < RANK * ranks:
        return Finding("warn", "memory", text, "fewer ranks, or a smaller --batch-size")
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < SHARED * ranks:
        shared = size(shutil.disk_usage(SHARED_MEMORY).free)
        return Finding("warn", "memory", f"{text}; {shared} free in /dev/shm", "docker run --shm-size=1g")
    return Finding("ok", "memory", text)


def orphaned_segments() -> dict[Path, int]:
    """This user's files of MPICH in shared memory that no process has mapped, and their sizes in bytes."""
    files = list(SHARED_MEMORY.glob("mpich_shm_*"))
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # another user's process, or it has ended meanwhile
            mapped |= {line.split()[-1] for line in maps.read_text().splitlines() if "mpich_shm_" in line}
    found = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # its ranks have ended meanwhile and removed it
            if str(file) not in mapped and file.stat().st_uid == os.getuid():
                found[file] = file.stat().st_size
    return found


def shared_memory() -> list[Finding]:
    """Files of killed ranks, about 1 MB each, which no later start removes."""
    found = orphaned_segments()
    if not found:
        return []
    text = f"{size(sum(found.values()))} in {SHARED_MEMORY} are left from killed ranks"
    return [Finding("warn", "shared memory", text, f"rm {SHARED_MEMORY}/mpich_shm_*, while no ranks start")]


def loopback() -> Finding:
    """127.0.0.1, which ranks, Dask and `trainer.watch` use, and the host's own name, which MPI looks up."""
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
        text = f"127.0.0.1 answers, but the name {name} has no address"
        return Finding("warn", "loopback", text, f"add to /etc/hosts: 127.0.0.1 {name}")
    return Finding("ok", "loopback", f"127.0.0.1 answers (tried port {port}), {name} has an address")


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Cores, and whether they multiply bfloat16."""
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    fast = "avx512_bf16" in flags or "amx_bf16" in flags
    mine, all_ = available_cores(), os.cpu_count()
    says = (
        f"{mine} of {all_} cores, {'with' if fast else 'without'} bfloat16 instructions: "
        f"--precision auto is {'bfloat16' if fast else 'float32'} on the CPU"
    )
    return Finding("ok", "processor", says)
