"""Every operation on a processor that has AVX2 alone, as most laptops do."""

import json
import sys

import pytest
import torch

from tests.launch import ROOT, run

FORCED = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",  # Numba's cache keeps each processor's code apart
    "NUMBA_CPU_FEATURES": "+avx2,+fma",  # or Numba adds those of this processor
}

# Float32 is what such a processor trains in. Each Numba loop is compiled once.
SCRIPT = """
import json, sys
for name in ("_convolve", "_weight_gradient", "_lrn_pool", "_sgd"):  # as if this processor could not load it
    sys.modules[f"trainer.kernels.{name}"] = None

import torch
from tests.trainer.kernels.test_backends import CASES, FLOAT32, check
from trainer.kernels import table

def is_taken(case):
    dtypes = {x.dtype for x in case.arguments if isinstance(x, torch.Tensor) and x.is_floating_point()}
    return dtypes <= {FLOAT32} and (case.operation != "relu_lrn_pool" or case.arguments[2])

assert torch.backends.cpu.get_cpu_capability() == "AVX2"
taken = {}
for case in filter(is_taken, CASES):
    backend = table.choose(case.operation, case.arguments, False)
    check(backend, case, torch.get_num_threads())
    taken.setdefault(case.operation, set()).add(backend.name)
print(json.dumps({operation: sorted(names) for operation, names in taken.items()}))
"""


@pytest.mark.processor
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="no AVX2 in this processor"
)
def test_every_operation_gives_the_references_results_with_avx2_alone():
    done = run(sys.executable, "-c", SCRIPT, cwd=ROOT, timeout=240, **FORCED)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "conv1": ["torch"],
        "conv2d": ["torch"],
        "relu_lrn_pool": ["numba"],
        "linear": ["accumulate"],
        "crop": ["numba"],
        "sgd_": ["numba"],
        "sum_rows_": ["torch"],
        "uniform": ["numba"],
    }
