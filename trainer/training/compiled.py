"""A tower whose training steps go through torch.compile: operations between layers become a few loops.

    bias, ReLU, dropout, pooling, casts     fused: C++ loops on a CPU, Triton kernels on a GPU
    LRN, conv1's space-to-depth             custom ops of trainer.kernels, opaque to torch.compile
    convolutions, products                  torch's libraries

Each stage is a graph of its own, forward and backward. Dropout masks, which change from step to step, are
drawn outside and passed in, so that nothing is compiled twice. Evaluation, whose last batch is smaller, and
steps whose activations are watched run the tower without torch.compile.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import types
from collections.abc import Callable

import torch
from torch import Tensor

from trainer import kernels
from trainer.errors import UserError
from trainer.model.network import DROPOUT_LAYERS, DropoutMasks, Tower

Masks = dict[str, Tensor]
"""Layer name -> its dropout mask, bool [B, F]: True = kept."""


class CompiledTower:
    """Runs a tower's stages, compiled in training."""

    def __init__(self, tower: Tower, threads: int) -> None:
        """`threads`: for computing and for compiling on this rank."""
        self.tower = tower
        # Without the number of threads, older versions of torch would read from the disk loops compiled for
        # another number, and each rank of a host would start a compiler for each core.
        options: dict[str, str | int | bool | Callable[..., object]] = {
            "cpp.threads": threads,
            "compile_threads": threads,
        }
        self._stages: list[Callable[[Tensor, Masks], Tensor]] = [
            torch.compile(of_stage(tower, index), fullgraph=True, dynamic=False, options=options)
            for index in range(len(tower.stages))
        ]

    def stage(self, index: int, x: Tensor, masks: DropoutMasks | None = None) -> Tensor:
        """As `Tower.stage`."""
        if masks is None or self.tower.watch:
            return self.tower.stage(index, x, masks)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)  # another format would be another graph
        return self._stages[index](x, self._draw(index, masks))

    def _draw(self, index: int, masks: DropoutMasks) -> Masks:
        if self.tower.settings.dropout == 0:
            return {}
        return {layer: masks(layer) for layer in self.tower.stages[index] if layer in DROPOUT_LAYERS}

    def warm_up(self, x_BCHW: Tensor, dtype: torch.dtype, masks: DropoutMasks) -> None:
        """Compile all stages both ways, on black images of a step's shape; leaves the gradients at zero."""
        x = x_BCHW.zero_()
        for index in range(len(self._stages)):
            y = self.stage(index, x, masks)
            y.backward(torch.zeros_like(y))
            whole = torch.cat([y.detach()] * self.tower.settings.towers, dim=1)
            x = whole.to(dtype).requires_grad_()
        for p in self.tower.parameters():
            if p.grad is not None:
                p.grad.zero_()


def of_stage(tower: Tower, index: int) -> Callable[[Tensor, Masks], Tensor]:
    """One stage as a function with its own code object. torch caches at most eight graphs a code object, and
    the two towers of a dense network have fourteen stages."""

    def run(x: Tensor, masks: Masks) -> Tensor:
        return tower.stage(index, x, masks.__getitem__)

    code = run.__code__.replace(co_name=f"stage{index + 1}_{tower.name}")
    own: Callable[[Tensor, Masks], Tensor] = types.FunctionType(
        code, run.__globals__, closure=run.__closure__
    )
    return own


# Every loop that torch generates includes these.
PROGRAM = "#include <Python.h>\n#include <omp.h>\n"


def require_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile lacks a compiler."""
    if device.type == "cuda":
        if not kernels.HAS_TRITON:
            raise UserError("--compile needs Triton on a GPU, which this torch lacks; leave out --compile.")
        return
    compiler = os.environ.get("CXX", "g++")  # as torch chooses
    include = f"-I{sysconfig.get_path('include')}"
    try:
        done = subprocess.run(
            [compiler, "-x", "c++", "-fopenmp", "-fsyntax-only", include, "-"],
            input=PROGRAM,
            text=True,
            capture_output=True,
        )
        works, reason = done.returncode == 0, done.stderr.strip().partition("\n")[0]
    except OSError as error:
        works, reason = False, str(error.strerror)
    if not works:
        raise UserError(
            f"--compile needs a C++ compiler with OpenMP, and Python's headers ({compiler}: {reason}); "
            "install g++ and python3-dev, name another compiler in CXX, or leave out --compile."
        )
