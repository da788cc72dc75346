"""Twenty steps on real batches, with dropout, crops, flips and colour: many ranks against one process.

In float64 too, where nothing but the order of sums can differ, and a wrong term has no rounding to hide in.

Rank 0 also runs the reference, both towers in one process, and compares with it what all ranks hold. How far
each parameter has moved is compared, not where it stands: a step that was not taken would hide behind 0.9999
of a weight that did not change.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from mpi4py import MPI

from tests.proofs import in_float64
from trainer.config import with_changes
from trainer.data.batches import TrainingBatches, open_data
from trainer.parallel.topology import init_topology
from trainer.recipes import CUDA_CONVNET, PAPER
from trainer.training.step import Trainer

from .test_parity import PROGRAM, SMALL, TransportName, everything

WORLD = MPI.COMM_WORLD
STEPS = {"float64": 2, "float32": 20, "bfloat16": 20}  # torch's convolutions in float64 are slow
LR = {"float64": 1e-3, "float32": 1e-3, "bfloat16": 1e-6}
BATCH = 8  # 160 samples of 60 images: two epochs end within a batch
RECIPES = {
    "paper": dataclasses.replace(PAPER, network=SMALL),
    "program": dataclasses.replace(CUDA_CONVNET, network=PROGRAM),
    "dense": dataclasses.replace(PAPER, network=dataclasses.replace(SMALL, dense=True)),
    "one tower": dataclasses.replace(PAPER, network=dataclasses.replace(SMALL, towers=1)),
}
Arrays = dict[str, np.ndarray]
pytestmark = pytest.mark.mpi(min_size=2)


def make_trainer(recipe: str, precision: str, world: MPI.Comm, transport: TransportName = "mpi") -> Trainer:
    config = RECIPES[recipe]
    optim = dataclasses.replace(config.optim, batch_size=BATCH)
    low: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    config = dataclasses.replace(config, optim=optim)
    config = with_changes(config, precision=low, seed=11, transport=transport)
    trainer = Trainer(config, init_topology("cpu", world, config.network.towers), classes=10)
    return in_float64(trainer) if precision == "float64" else trainer


def batches(trainer: Trainer, steps: int) -> TrainingBatches:
    store = open_data(Path(os.environ["TINY_STORE"]))
    return TrainingBatches(store, trainer.config.augment, 11, BATCH, trainer.positions(), 0, steps)


@dataclasses.dataclass
class Trace:
    """What twenty steps did to the towers of one rank."""

    losses: list[float]
    first: Arrays
    """The gradients of the first step."""
    moved: Arrays
    momenta: Arrays


def trace(recipe: str, precision: str, world: MPI.Comm, transport: TransportName = "mpi") -> Trace:
    trainer = make_trainer(recipe, precision, world, transport)
    start, losses, first = everything(trainer, "value"), [], {}
    loader = batches(trainer, STEPS[precision])
    for batch in loader:
        if batch.step == 0:
            trainer.gradients(batch.images_BCHW, batch.labels_B, 0)
            first = everything(trainer, "gradient")
            for stage in (stage for stages in trainer.flat for stage in stages):
                stage.reduced_grads.zero_()
        losses.append(trainer.train_step(batch.images_BCHW, batch.labels_B, batch.step, LR[precision]))
    loader.close()
    end = everything(trainer, "value")
    return Trace(losses, first, {n: end[n] - start[n] for n in end}, everything(trainer, "momentum"))


def distance(found: Arrays, expected: Arrays) -> Arrays:
    """By how much of its norm each array is off."""
    return {n: np.linalg.norm(a - expected[n]) / np.linalg.norm(expected[n]) for n, a in found.items()}


def worst(found: Arrays, expected: Arrays, allowed: Callable[[str], float]) -> tuple[float, str]:
    """The largest distance in units of what is allowed, and what it belongs to."""
    shares = [(d / allowed(name), name) for name, d in distance(found, expected).items()]
    return max(shares)


CASES = [("float32", "paper", "mpi")]
if WORLD.size <= 4:
    CASES += [("bfloat16", "paper", "mpi"), ("float32", "program", "torch")]
if WORLD.size == 4:  # the smallest world in which every exchange takes part
    CASES += [("float64", recipe, "mpi") for recipe in ("program", "dense", "one tower")]


@pytest.mark.parametrize(("precision", "recipe", "transport"), CASES)
def test_twenty_steps_equal_the_single_process(precision, recipe, transport):
    traces = WORLD.gather(trace(recipe, precision, WORLD, transport))
    if WORLD.rank != 0:
        return
    alone = trace(recipe, precision, MPI.COMM_SELF)
    # In bfloat16 weights move by less than float32 can show.
    for what in ("first", "momenta") if precision == "bfloat16" else ("first", "moved", "momenta"):
        allowed = bounds(what, precision)
        for theirs in traces:
            share, name = worst(getattr(theirs, what), getattr(alone, what), allowed)
            assert share < 1, f"{what}, {name}: {share:.2f} of {allowed(name):.1e}"
    rounding = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 2**-8}[precision]  # of sums of shares
    for theirs in traces:
        assert theirs.losses == pytest.approx(alone.losses, rel=rounding)


def bounds(what: str, precision: str) -> Callable[[str], float]:
    """What rounding can do, as a share of each array's norm. Half of a batch lost, a sum not taken, towers
    swapped or another image would be 0.3 and more, in float64 too.

    float64: sums in another order, 1e-16 each, through eight layers each way: 1e-13. Weights that moved by
    5e-5 of themselves lose 20 * 1e-16 / 5e-5 = 4e-11 of how far they moved.

    float32: 6e-8 for 1e-16: 1e-5 in the first gradients; for a bias, the rest of 24,200 terms of both signs
    added one by one, 24,200 * 6e-8 = 1.5e-3. From the second step on weights differ in their last bit, and a
    window with two equal maxima can choose the other. Fewest and so heaviest are those behind conv5: 8 * 6 *
    6 of an image, 2,304 of a batch. One that flips changes that step's gradient, and those of all layers
    below, by sqrt(2 / 2,304) = 3e-2. Two in the last steps are 6e-2 of a momentum, which holds little else;
    among twenty steps whose gradients point anywhere they are 2 * 3e-2 / sqrt(20) = 1.3e-2 of how far a
    parameter moved, and weights that moved by 5e-5 of themselves lose sqrt(20) * 6e-8 / 5e-5 = 5e-3 of that.

    bfloat16: windows that are alike to 2^-8 would flip by the dozen from the second step on, and hide any
    error in the layers below. So the learning rate is so small that no weight changes as bfloat16. Then the
    momenta after twenty steps are sums of twenty gradients, which eight layers round to 2^-9 each: 2^-6.
    """
    if precision == "float64":
        return lambda name: 1e-10 if what == "moved" else 1e-12
    if precision == "float32":
        later = {"moved": 2e-2, "momenta": 6e-2}.get(what)
        return lambda name: later or (1.5e-3 if name.endswith("bias") else 1e-5)
    return lambda name: 2**-6


def test_both_ranks_of_a_pair_see_the_same_pixels_and_the_pairs_divide_the_batch():
    def hashes(world: MPI.Comm) -> list[list[str]]:
        loader = batches(make_trainer("paper", "float32", world), 9)
        seen = [
            [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in batch.images_BCHW]
            for batch in loader
        ]
        loader.close()
        return seen

    ranks = WORLD.allgather(hashes(WORLD))
    assert ranks[::2] == ranks[1::2]
    if WORLD.rank == 0:
        together = [[image for pair in ranks[::2] for image in pair[step]] for step in range(9)]
        assert together == hashes(MPI.COMM_SELF)
        assert all(len(set(step)) == BATCH for step in together)
