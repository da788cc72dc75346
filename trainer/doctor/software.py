"""Python, packages, Pillow-SIMD, torch and its GPUs."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys

from trainer.doctor.finding import Finding, attempt, built

SETUP = "make setup"
OLDEST = (3, 11)

# Imported, since a package that is there can still be broken; the larger ones, which preprocessing alone
# needs, are only looked for.
NEEDED = ("numpy", "numba", "PIL", "rich", "safetensors", "tensorstore", "tqdm", "tyro")
LOOKED_FOR = ("dask", "distributed", "mpi4py", "scipy", "snakemake", "torch", "zarr")

IMPORTS = """
import importlib, json
for name in {names}:
    print(json.dumps([name, None]), flush=True)
    try:
        importlib.import_module(name)
        print(json.dumps([name, ""]), flush=True)
    except BaseException as error:
        print(json.dumps([name, f"{{type(error).__name__}}: {{error}}"]), flush=True)
"""

PILLOW = """
import importlib.metadata as m, json, PIL
from PIL import features
found = {(d.metadata["Name"] or "").lower(): d.version for d in m.distributions()}
print(json.dumps([PIL.__version__, found.get("pillow-simd"), found.get("pillow"), features.check("jpg")]))
"""

TORCH = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([torch.__version__, torch.version.cuda, [[g.name, g.total_memory] for g in gpus]]))
"""


def python() -> Finding:
    """The interpreter."""
    says = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding("fail", "Python", says, f"{oldest} or newer is needed: {SETUP} PYTHON=python{oldest}")
    if sys.prefix == sys.base_prefix:
        return Finding("warn", "Python", f"{says}, in no virtual environment", "source .venv/bin/activate")
    return Finding("ok", "Python", says)


def packages() -> list[Finding]:
    """Each package that is missing or does not import."""
    state = {n: "" if importlib.util.find_spec(n) else "not installed" for n in LOOKED_FOR}
    names = list(NEEDED)
    while names:
        tried = attempt(script=IMPORTS.format(names=names))
        said = dict(tried.values)
        # What was begun and not ended took the interpreter with it; those behind it get another one.
        crashed = [n for n in names if said.get(n, "") is None] or ([] if said else names[:1])
        state |= {n: words for n, words in said.items() if words is not None}
        state |= dict.fromkeys(crashed, f"importing it ends Python: {tried.ending or tried.failure}")
        names = [n for n in names if n not in state]
    bad = {n: words for n, words in state.items() if words}
    if not bad:
        return [Finding("ok", "packages", f"{len(state)} are there")]
    return [Finding("fail", f"package {n}", words, SETUP) for n, words in bad.items()]


def pillow() -> Finding:
    """Pillow-SIMD, or Pillow that took its place, and the project's own C beside it."""
    tried = attempt(script=PILLOW)
    if not tried.values:
        return Finding("fail", "Pillow-SIMD", f"PIL does not import: {tried.failure}", SETUP)
    imported, simd, plain, jpeg = tried.values[-1]
    again = "pip uninstall -y pillow && pip install --force-reinstall --no-deps --no-binary :all: pillow-simd"
    if not jpeg:
        return Finding(
            "fail", "Pillow-SIMD", "PIL was built without JPEG", f"install libjpeg-dev, then: {again}"
        )
    if simd is None or plain is not None or imported != simd:
        says = f"Pillow {imported} is imported instead: pictures are decoded at half the speed"
        return Finding("warn", "Pillow-SIMD", says, again)
    if not built("preprocess.pictures._square"):
        says = "preprocess/pictures/_square.c is not built: preprocessing is a third slower"
        return Finding(
            "warn", "Pillow-SIMD", says, "install libjpeg-dev (libjpeg-turbo's), then: pip install -e ."
        )
    return Finding("ok", "Pillow-SIMD", simd)


def ctrl_c() -> Finding:
    """Whether Ctrl-C ends every rank from within C, at any moment."""
    if not built("trainer.parallel._interrupt"):
        says = "parallel/_interrupt.c is not built: after Ctrl-C MPICH's mpirun ends with 2 instead of 130"
        return Finding("warn", "Ctrl-C", says, "install gcc and Python's headers, then: pip install -e .")
    return Finding("ok", "Ctrl-C", "ends all ranks at once, with exit code 130")


def torch(ranks: int) -> list[Finding]:
    """torch, and which rank of this host would get which GPU."""
    tried = attempt(script=TORCH)
    if not tried.values:
        return [Finding("fail", "torch", f"it does not import: {tried.failure}", SETUP)]
    version, cuda, gpus = tried.values[-1]
    found = [Finding("ok", "torch", f"{version}, {f'CUDA {cuda}' if cuda else 'for the CPU'}")]
    if gpus:
        shown = [f"{name}, {memory / 2**30:.0f} GiB" for name, memory in gpus]
        who = ", ".join(f"rank {rank} GPU {rank % len(gpus)}" for rank in range(ranks))
        shared = ranks > len(gpus)
        says = f"{len(gpus)} ({'; '.join(dict.fromkeys(shown))}): {who}"
        remedy = f"{ranks} ranks share {len(gpus)}: it works, through the host; one GPU a rank is faster"
        return [*found, Finding("warn" if shared else "ok", "GPUs", says, remedy if shared else "")]
    if shutil.which("nvidia-smi"):
        says = "the driver's nvidia-smi is here, but torch sees no GPU"
        remedy = "pip install torch, built for the driver's CUDA" if cuda is None else "nvidia-smi says more"
        return [*found, Finding("warn", "GPUs", says, remedy)]
    return [*found, Finding("ok", "GPUs", "none: all ranks compute on the CPU")]
