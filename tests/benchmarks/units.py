"""The speed of this processor's units, by units.c: what no library can exceed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from tests.benchmarks.harness import Contender

SOURCE = Path(__file__).with_suffix(".c")
Unit = Literal[
    "float32_operations",
    "bfloat16_vector_operations",
    "bfloat16_matrix_operations",
    "bytes_loaded_and_stored",
]
NAMES: dict[Unit, str] = {
    "float32_operations": "multiply-adds of float32 in registers",
    "bfloat16_vector_operations": "bfloat16 dot products in vector registers",
    "bfloat16_matrix_operations": "bfloat16 products in the matrix unit's tiles",
    "bytes_loaded_and_stored": "loads and stores of an array that no cache holds",
}
ANY_BFLOAT16: tuple[Unit, ...] = ("bfloat16_matrix_operations", "bfloat16_vector_operations")


@cache
def library() -> ctypes.CDLL | None:
    """Compile units.c for this processor. None: there is no compiler, or it cannot compile for this one."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="units-") as folder:
        target = Path(folder) / "units.so"
        flags = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
        done = subprocess.run([compiler, *flags, "-o", target, SOURCE], capture_output=True, text=True)
        if done.returncode:
            print(f"units.c does not compile here, so no row has its figures: {done.stderr[-300:]}")
            return None
        return ctypes.CDLL(str(target))  # stays loaded when the file is gone


def speed(unit: Unit, seconds: float) -> float:
    """Operations or bytes a second, all cores together. 0: the processor has no such unit."""
    compiled = library()
    if compiled is None:
        return 0.0
    function = getattr(compiled, unit)
    function.argtypes, function.restype = [ctypes.c_double], ctypes.c_double
    return float(function(seconds))


def contender(amount: float, among: tuple[Unit, ...], seconds: float, per: str) -> Contender | None:
    """Make a contender: `amount` operations or bytes are one of the row's units of work.

    among: units of which the first that this processor has is measured. None if it has none of them.
    """
    unit = next((unit for unit in among if speed(unit, 0.01) > 0), None)
    if unit is None:
        return None
    return Contender(f"{NAMES[unit]}, all cores, {per}", lambda: speed(unit, seconds) / amount)
