"""The Triton kernels without a GPU: they compile for A100 and H100, and Triton's interpreter runs them."""

import importlib.util
import json
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.launch import LOCK, ROOT, run

COMPILE = """
import inspect, json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from trainer.kernels import triton_kernels as kernels

FLOATS = ("k", "alpha", "momentum", "lr_decay", "lr")
WIDE = ("w", "v")  # always float32

def compiled(kernel, pointers, number, constants, target):
    signature = {}
    for name in inspect.signature(kernel.fn).parameters:
        signature[name] = (
            "constexpr" if name in constants
            else "*fp32" if name in WIDE
            else number if name in pointers
            else "fp32" if name in FLOATS
            else "i32"
        )
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return len(triton.compile(source, target=GPUTarget("cuda", target, 32)).asm["cubin"])

for target in (80, 90):
    for number in ("*bf16", "*fp32"):
        lrn = {"C": 48, "relu": number == "*bf16", "half": 2, "beta": 0.75, "block": kernels.BLOCK}
        print(json.dumps([
            compiled(kernels._lrn_forward, ("x", "y"), number, lrn, target),
            compiled(kernels._lrn_backward, ("x", "dy", "dx"), number, lrn, target),
            compiled(kernels._sgd, ("g", "rounded"), number, {"block": kernels.BLOCK}, target),
        ]))
"""

NORMALISE = """
import sys
import torch
from trainer.kernels import cuda

cases = torch.load(sys.argv[1])
for case in cases:
    x = case["x"].clone().requires_grad_()
    y = cuda.relu_lrn_pool(x, case["relu"], case["window"], *case["constants"])
    y.backward(case["dy"][..., : y.shape[2], : y.shape[3]])
    case |= {"y": y.detach(), "dx": x.grad}
torch.save(cases, sys.argv[1])
"""

UPDATE = """
import sys
import torch
from trainer.kernels import cuda

cases = torch.load(sys.argv[1])
for arrays in cases:
    cuda.sgd_(*arrays, 0.9, 0.02 * 0.0005, 0.02)
torch.save(cases, sys.argv[1])
"""


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    """Runs a script where Triton is: torch's own on a GPU's machine, elsewhere in a folder of its own."""
    folder = tmp_path_factory.mktemp("triton")
    if importlib.util.find_spec("triton") is None:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder))
        done = run(*pip, "--constraint", str(LOCK), "triton", cwd=folder)
        if done.returncode:
            pytest.skip(f"Triton's wheel cannot be installed here: {done.stderr.strip()[-300:]}")

    def script(text, *arguments, interpret):
        settings = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
        settings |= {"TRITON_CACHE_DIR": str(folder / "cache"), "TRITON_INTERPRET": str(int(interpret))}
        done = run(sys.executable, "-W", "ignore", "-c", text, *map(str, arguments), cwd=ROOT, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return script


def test_they_compile_for_gpus(triton):
    sizes = [json.loads(line) for line in triton(COMPILE, interpret=False).splitlines()]
    assert len(sizes) == 4
    assert all(size > 0 for kernels in sizes for size in kernels)


def test_they_normalise_as_torch_does_in_float64(triton, tmp_path):
    draw = torch.Generator().manual_seed(0)
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        for shape, n, beta in (((2, 48, 5, 7), 5, 0.75), ((1, 96, 4, 3), 5, 0.75), ((3, 7, 4, 4), 3, 0.5)):
            x, dy = (
                torch.randn(shape, generator=draw).to(dtype).contiguous(memory_format=torch.channels_last)
                for _ in range(2)
            )
            case = {"x": 3 * x, "dy": dy, "constants": (n, 2.0, 0.1, beta)}
            windows = (None, 3) if dtype == torch.float32 else (None,)
            cases += [case | {"relu": relu, "window": w} for relu in (False, True) for w in windows]
    torch.save(cases, tmp_path / "cases.pt")
    triton(NORMALISE, tmp_path / "cases.pt", interpret=True)
    for case in torch.load(tmp_path / "cases.pt"):
        n, k, alpha, beta = case["constants"]
        x = case["x"].double().requires_grad_()
        y = F.local_response_norm(F.relu(x) if case["relu"] else x, n, alpha * n, beta, k)
        y = y if case["window"] is None else F.max_pool2d(y, case["window"], 2)
        y.backward(case["dy"].double()[..., : y.shape[2], : y.shape[3]])
        # float32's own error, and for bfloat16 what its 8 places leave out: the interpreter cuts it off.
        error = 2e-6 if case["x"].dtype == torch.float32 else 2**-7
        for found, right in ((case["y"], y.detach()), (case["dx"], x.grad)):
            assert found.dtype == case["x"].dtype
            assert ((found - right).abs() <= error * right.abs() + 1e-6).all()


def test_they_update_as_the_paper_does(triton, tmp_path):
    draw = torch.Generator().manual_seed(0)
    w, v, g = (torch.randn(3000, generator=draw) for _ in range(3))
    cases = [
        [w, v, g, None],
        [w.clone(), v.clone(), g.bfloat16(), torch.zeros(3000, dtype=torch.bfloat16)],
    ]
    torch.save(cases, tmp_path / "cases.pt")
    triton(UPDATE, tmp_path / "cases.pt", interpret=True)
    for before, after in zip(cases, torch.load(tmp_path / "cases.pt"), strict=True):
        w, v, g = (x.double() for x in before[:3])
        right_v = 0.9 * v - 0.0005 * 0.02 * w - 0.02 * g
        right_w = w + right_v
        w, v, g, rounded = after
        assert np.allclose(w, right_w, rtol=0, atol=1e-6)
        assert np.allclose(v, right_v, rtol=0, atol=1e-6)
        assert not g.any()
        assert rounded is None or ((rounded - right_w).abs() <= 2**-7 * right_w.abs() + 1e-6).all()
