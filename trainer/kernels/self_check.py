"""A trial of the GPU's own kernels before their first use: a small case, compared with the reference.

A kernel that raises (Triton without a C compiler, a GPU that it does not know) or computes something else is
left out of the table for this process, which goes on with torch's operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.kernels import table

BACKEND = "triton"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7}
"""Of the largest value: bfloat16 keeps 8 bits, and each side rounds once."""


def left_out(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Try the kernels of the GPU; returns a sentence for each that is left out. Nothing is tried on a CPU."""
    if device.type != "cuda":
        return []
    sentences = []
    for operation, case in {"relu_lrn_pool": _normalise, "sgd_": _update}.items():
        found = [backend for backend in table.TABLE[operation] if backend.name == BACKEND]
        if not found or not found[0].needs.available:
            continue
        if reason := _differs(found[0], table.TABLE[operation][-1], case, device, dtype):
            table.leave_out(operation, BACKEND)
            name = operation.rstrip("_")
            sentences.append(f"kernel {name}: {BACKEND} {reason}; torch's operations are used instead")
    return sentences


Case = Callable[[table.Backend, torch.device, torch.dtype], list[Tensor]]


def _differs(
    tried: table.Backend, reference: table.Backend, case: Case, device: torch.device, dtype: torch.dtype
) -> str:
    """Why a backend cannot be used; "" where its results are the reference's."""
    try:
        found = [x.float().cpu() for x in case(tried, device, dtype)]
    except Exception as error:  # of a compiler, of a driver, of Triton itself
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"cannot run here ({first})"
    expected = [x.float().cpu() for x in case(reference, device, dtype)]
    for a, b in zip(found, expected, strict=True):
        difference = float((a - b).abs().max() / b.abs().max())
        if not difference <= TOLERANCE.get(dtype, 1e-5):
            return f"differs by {difference:.1e} of the largest value"
    return ""


def _normalise(backend: table.Backend, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The output and the input's gradient of LRN with pooling on [2, 16, 7, 7]."""
    draw = torch.Generator().manual_seed(0)
    x = (torch.randn(2, 16, 7, 7, generator=draw) * 60).to(memory_format=torch.channels_last)
    x = x.to(device, dtype).requires_grad_()
    y = backend.run(x, True, 3, 5, 2.0, 1e-4, 0.75)
    y.sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad]


def _update(backend: table.Backend, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Weights, velocities and rounded weights after an update of 1,000 numbers."""
    draw = torch.Generator().manual_seed(0)
    w, v, g = (torch.randn(1000, generator=draw).to(device) for _ in range(3))
    rounded = w.to(dtype) if dtype != torch.float32 else None
    backend.run(w, v, g.to(dtype), rounded, 0.9, 1e-3, 0.1)
    return [w, v] if rounded is None else [w, v, rounded]
