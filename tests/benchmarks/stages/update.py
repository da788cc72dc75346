"""The optimizer's update of one tower's 30.5 million parameters, gradients left at zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks import units
from tests.benchmarks.harness import Contender, Row, rate
from tests.benchmarks.settings import Settings
from trainer.model.initial_weights import build_tower
from trainer.recipes import AUTO
from trainer.training.optimizer import flatten, sgd_step_

LR = 1e-3


def rows(settings: Settings, scratch: Path) -> list[Row]:
    tower = build_tower(AUTO.network, 1000, "a", seed=0)
    theirs = [p.detach().clone().requires_grad_() for p in tower.parameters()]
    for p in theirs:
        p.grad = torch.zeros_like(p)
    flat = flatten(tower)
    floats = sum(stage.master_weights.numel() for stage in flat)
    moved = 6 * 4 * floats / 1e9  # GB: weights, momenta, gradients; each read and written, 4 bytes a number
    source, target = torch.ones(2, 3 * floats)

    def ours() -> None:
        for stage in flat:
            sgd_step_(stage, AUTO.optim, LR)

    def contender(what: str, function: Callable[[], object]) -> Contender:
        return Contender(what, rate(moved, function, settings.seconds))

    mine = contender("trainer.training.optimizer.sgd_step_ over the flat stages", ours)
    copy = contender("a copy that moves as many bytes", lambda: target.copy_(source))
    memory = units.contender(1e9, ("bytes_loaded_and_stored",), settings.seconds, "in GB")
    return [
        Row(
            stage=f"update vs {kind} SGD",
            unit="GB/s",
            ours=mine,
            peer=contender(f"torch.optim.SGD({kind}=True), then zero_grad", _sgd(theirs, kind)),
            limit=copy,
            units=memory,
        )
        for kind in ("fused", "foreach")
    ]


def _sgd(parameters: list[Tensor], kind: str) -> Callable[[], None]:
    o = AUTO.optim
    optimizer = torch.optim.SGD(
        parameters,
        lr=LR,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        foreach=kind == "foreach",
        fused=kind == "fused",
    )

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return update
