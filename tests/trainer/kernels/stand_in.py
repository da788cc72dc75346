"""Kernels in C compiled with the instructions of stand_in.h, in plain C, so that any processor runs them."""

import functools
import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.launch import ROOT
from trainer.kernels import amx, avx512

HERE, KERNELS = Path(__file__).parent, ROOT / "trainer" / "kernels"
PLAIN = f'-DSTAND_IN="{HERE / "stand_in.h"}"'
EXTENSIONS = {amx: ("_convolve", "_weight_gradient"), avx512: ("_lrn_pool", "_sgd")}

Loader = Callable[[str], ModuleType]
"""An extension's name -> the extension, with the instructions in plain C."""


def compile_c(source: Path, library: Path, *options: str) -> None:
    """Compile a shared library. Skips the test where there is no compiler."""
    headers = Path(sysconfig.get_path("include"))
    if shutil.which("cc") is None or not (headers / "Python.h").exists():
        pytest.skip("no C compiler, or Python's headers are not installed")
    command = ["cc", "-shared", "-fPIC", "-O2", "-ffp-contract=off", "-fopenmp"]
    command += ["-Wall", "-Wno-psabi", "-Wno-unused-function", f"-I{headers}", f"-I{KERNELS}"]
    subprocess.run([*command, *options, source, "-o", library], check=True)


def loader(folder: Path) -> Loader:
    """Compile each extension into the folder when it is first asked for."""

    @functools.cache
    def load(name: str) -> ModuleType:
        library = folder / f"{name}.so"
        compile_c(KERNELS / f"{name}.c", library, PLAIN)
        spec = importlib.util.spec_from_file_location(name, library)
        assert spec is not None
        assert spec.loader is not None
        extension = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(extension)
        return extension

    return load


def take(module: ModuleType, load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let amx or avx512 call its extensions with the instructions in plain C."""
    for name in EXTENSIONS[module]:
        monkeypatch.setattr(module, name, load(name), raising=False)
