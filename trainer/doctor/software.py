"""Python, packages, Pillow-SIMD, torch and its GPUs."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys

from trainer.doctor.finding import Finding, attempt, built

SETUP = "make setup"
OLDEST = (3, 11)

# Imported, for an installed package can be broken. Of the larger ones only the presence is checked.
IMPORTED = ("numpy", "numba", "PIL", "rich", "safetensors", "tensorstore", "tqdm", "tyro")
PRESENT = ("dask", "distributed", "mpi4py", "scipy", "snakemake", "torch", "zarr")

# Needed for some sources and formats alone: the module, what it reads, and how it is installed.
OPTIONAL = (
    ("pyarrow", "Parquet", "pyarrow"),
    ("rapidgzip", "tar.gz", "rapidgzip"),
    ("imagecodecs", "WebP and compressed TIFF", "imagecodecs"),
    ("pillow_heif", "HEIC", "--no-deps pillow-heif"),
)

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
    """The interpreter's version, and whether it is in a virtual environment."""
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding("fail", "Python", text, f"{oldest} or newer is needed: {SETUP} PYTHON=python{oldest}")
    if sys.prefix == sys.base_prefix:
        return Finding("warn", "Python", f"{text}, in no virtual environment", "source .venv/bin/activate")
    return Finding("ok", "Python", text)


def packages() -> list[Finding]:
    """A finding for each package that is missing or cannot be imported."""
    state = {n: "" if importlib.util.find_spec(n) else "not installed" for n in PRESENT}
    names = list(IMPORTED)
    while names:
        outcome = attempt(script=IMPORTS.format(names=names))
        printed = dict(outcome.values)
        # An import without a result ended the interpreter. The packages after it are tried in another one.
        crashed = [n for n in names if printed.get(n, "") is None] or ([] if printed else names[:1])
        state |= {n: error for n, error in printed.items() if error is not None}
        state |= dict.fromkeys(crashed, f"importing it ends Python: {outcome.ending or outcome.failure}")
        names = [n for n in names if n not in state]
    broken = {n: error for n, error in state.items() if error}
    if not broken:
        return [Finding("ok", "packages", f"{len(state)} are installed")]
    return [Finding("fail", f"package {n}", error, SETUP) for n, error in broken.items()]


def pillow(x86: bool = platform.machine() in ("x86_64", "AMD64")) -> Finding:
    """Whether Pillow-SIMD is imported, and not Pillow; whether _square.c is built."""
    outcome = attempt(script=PILLOW)
    if not outcome.values:
        return Finding("fail", "Pillow-SIMD", f"PIL does not import: {outcome.failure}", SETUP)
    imported, simd, plain, jpeg = outcome.values[-1]
    if not x86 and jpeg:
        return Finding(
            "ok", "Pillow-SIMD", f"it is for x86 processors; here Pillow {imported} decodes images"
        )
    reinstall = (
        "pip uninstall -y pillow && pip install --force-reinstall --no-deps --no-binary :all: pillow-simd"
    )
    if not jpeg:
        return Finding(
            "fail", "Pillow-SIMD", "PIL was built without JPEG", f"install libjpeg-dev, then: {reinstall}"
        )
    if simd is None or plain is not None or imported != simd:
        text = f"Pillow {imported} is imported instead: images are decoded at half the speed"
        headers = "" if simd else "install gcc, python3-dev, libjpeg-dev and zlib1g-dev, then: "
        return Finding("warn", "Pillow-SIMD", text, f"{headers}{reinstall}")
    if not built("preprocess.pictures._square"):
        text = "preprocess/pictures/_square.c is not built: preprocessing is a third slower"
        return Finding(
            "warn", "Pillow-SIMD", text, "install libjpeg-dev (libjpeg-turbo's), then: pip install -e ."
        )
    return Finding("ok", "Pillow-SIMD", simd)


def sources() -> Finding:
    """Which kinds of archives and images need a package that is not installed. Few users need all of them."""
    missing = [entry for entry in OPTIONAL if not importlib.util.find_spec(entry[0])]
    read = [what for module, what, _ in OPTIONAL if module not in {entry[0] for entry in missing}]
    texts = [f"{', '.join(read)} can be read"] if read else []
    texts += [f"for {what}: pip install {package}" for _, what, package in missing]
    return Finding("ok", "sources", "; ".join(texts))


def ctrl_c() -> Finding:
    """Whether _interrupt.c is built, which ends every rank at Ctrl-C."""
    if not built("trainer.parallel._interrupt"):
        text = "parallel/_interrupt.c is not built: after Ctrl-C MPICH's mpirun ends with 2 instead of 130"
        return Finding("warn", "Ctrl-C", text, "install gcc and Python's headers, then: pip install -e .")
    return Finding("ok", "Ctrl-C", "ends all ranks at once, with exit code 130")


def torch(ranks: int) -> list[Finding]:
    """torch's version, and the GPU of each rank of this host."""
    outcome = attempt(script=TORCH)
    if not outcome.values:
        return [Finding("fail", "torch", f"it does not import: {outcome.failure}", SETUP)]
    version, cuda, gpus = outcome.values[-1]
    found = [Finding("ok", "torch", f"{version}, {f'CUDA {cuda}' if cuda else 'for the CPU'}")]
    if gpus:
        models = [f"{name}, {memory / 2**30:.0f} GiB" for name, memory in gpus]
        placement = ", ".join(f"rank {rank} GPU {rank % len(gpus)}" for rank in range(ranks))
        shared = ranks > len(gpus)
        text = f"{len(gpus)} ({'; '.join(dict.fromkeys(models))}): {placement}"
        remedy = f"{ranks} ranks share {len(gpus)} and exchange through host memory; one GPU each is faster"
        return [*found, Finding("warn" if shared else "ok", "GPUs", text, remedy if shared else "")]
    if shutil.which("nvidia-smi"):
        text = "nvidia-smi is installed, but torch finds no GPU"
        remedy = "run nvidia-smi" if cuda else "pip install torch, built for the driver's CUDA"
        return [*found, Finding("warn", "GPUs", text, remedy)]
    return [*found, Finding("ok", "GPUs", "none: all ranks compute on the CPU")]
