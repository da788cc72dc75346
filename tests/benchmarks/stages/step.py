"""One training step: forward, exchange, backward, reduce, update. The images are in memory already."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from tests.benchmarks import units
from tests.benchmarks.harness import Contender, Row, rate
from tests.benchmarks.processes import ranks, worker
from tests.benchmarks.settings import Settings

# Multiply-accumulates of an image, forward: 724.4 million, of which conv1 has 105.4. Forward, gradients of
# the weights and gradients of the inputs are 3 x 2 x 724.4; conv1's inputs, the images, need no gradient.
GFLOP_AN_IMAGE = (3 * 2 * 724.4 - 2 * 105.4) / 1e3  # 4.136

SIDE = 4096  # rows and columns of the matrices whose product is the limit
PEERS = {
    "plain": "the one-tower AlexNet of model zoos (no LRN, no groups) in torch.nn, float32, one process",
    "towers": "both towers with groups=2 and torch's LRN in torch.nn, float32, one process",
}


SMALL = 32
"""The batch size that --recipe auto chooses for small sets."""


def rows(settings: Settings, scratch: Path) -> list[Row]:
    size = settings.batch, settings.steps
    peers = {name: Contender(what, worker("network", name, *size)) for name, what in PEERS.items()}
    table = []
    for precision in ("bfloat16", "float32"):
        limit, of_units = product(settings, precision), registers(settings, precision)
        ours = {
            "pair": Contender("a pair of ranks, the cores shared", ranks(2, "ours", precision, *size)),
            "alone": Contender("one process with both towers", worker("ours", precision, *size)),
        }
        table += [
            Row(
                stage=f"step {precision} {who} vs {name}",
                unit="img/s",
                ours=ours[who],
                peer=peers[name],
                limit=limit,
                units=of_units,
            )
            for who, name in (("pair", "plain"), ("pair", "towers"), ("alone", "plain"))
        ]
        without = Contender("the same step with --no-lrn", ranks(2, "ours", precision, *size, "no-lrn"))
        table.append(
            Row(
                stage=f"step {precision} pair, what LRN costs", unit="img/s", ours=ours["pair"], limit=without
            )
        )
        few = SMALL, settings.steps * max(1, settings.batch // SMALL)  # as many images
        table += [
            Row(
                stage=f"step {precision} {who}, {SMALL} vs {settings.batch}",
                unit="img/s",
                ours=Contender(f"the same with batches of {SMALL}", start("ours", precision, *few)),
                limit=ours[who],
            )
            for who, start in (("pair", partial(ranks, 2)), ("alone", worker))
        ]
    return table


def registers(settings: Settings, precision: str) -> Contender | None:
    """Make the units' figure: images a second if they never waited for a number."""
    among = units.ANY_BFLOAT16 if precision == "bfloat16" else ()
    per = f"over {GFLOP_AN_IMAGE:.3f} GFLOP an image"
    return units.contender(1e9 * GFLOP_AN_IMAGE, (*among, "float32_operations"), settings.seconds, per)


def product(settings: Settings, precision: str, side: int = SIDE) -> Contender:
    """Make the limit: images a second at the speed of a large matrix product, all cores."""
    a, b = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0)).to(
        getattr(torch, precision)
    )
    out = torch.empty_like(a)
    images = 2 * side**3 / 1e9 / GFLOP_AN_IMAGE
    return Contender(
        f"a matrix product of {side}x{side} in {precision}, over {GFLOP_AN_IMAGE:.3f} GFLOP an image",
        rate(images, lambda: torch.mm(a, b, out=out), settings.seconds),
    )
