"""Local response normalisation after conv1 and conv2, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks import units
from tests.benchmarks.harness import Contender, Row, rate
from tests.benchmarks.settings import Settings
from trainer import kernels

SHAPES = ((96, 55, 55), (256, 27, 27))  # as many maps as both towers have, for peers that know no towers


def rows(settings: Settings, scratch: Path) -> list[Row]:
    return [
        _row(settings, (settings.lrn_batch, *shape), dtype)
        for dtype in (torch.float32, torch.bfloat16)
        for shape in SHAPES
    ]


def _row(settings: Settings, shape: tuple[int, ...], dtype: torch.dtype) -> Row:
    x, grad = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x_last, grad_last = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))

    def contender(what: str, function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Contender:
        return Contender(what, rate(shape[0], forward_backward(function, x, grad), settings.seconds))

    name = str(dtype).removeprefix("torch.")
    return Row(
        stage=f"lrn {'x'.join(map(str, shape))} {name}",
        unit="img/s",
        ours=contender("trainer.kernels.relu_lrn_pool, channels_last", lrn, x_last, grad_last),
        peer=contender("torch's, contiguous; bfloat16 through float32, as autocast does", theirs, x, grad),
        limit=contender(
            "one multiplication by a number, channels_last", lambda x: x * 0.5, x_last, grad_last
        ),
        units=units.contender(
            # x and the output's gradient are loaded, the output and x's gradient are stored.
            4 * math.prod(shape[1:]) * dtype.itemsize,
            ("bytes_loaded_and_stored",),
            settings.seconds,
            "of four arrays",
        ),
    )


def lrn(x_BCHW: Tensor) -> Tensor:
    """Normalisation alone, with the paper's constants."""
    return kernels.relu_lrn_pool(x_BCHW, relu=False, window=None, n=5, k=2.0, alpha=1e-4, beta=0.75)


def theirs(x_BCHW: Tensor) -> Tensor:
    """The same function by torch, which divides alpha by the 5 channels of the window."""
    return F.local_response_norm(x_BCHW.float(), 5, alpha=5e-4, beta=0.75, k=2.0).to(x_BCHW.dtype)


def forward_backward(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
    """A call runs both directions and returns the input's gradient."""
    leaf = x.detach().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf, grad)[0]
