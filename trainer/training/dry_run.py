"""`python -m trainer.run --dry-run`: the memory, disk, steps and time that a run would take.

Every rank takes a few real steps on noise at learning rate 0, with all exchanges. Nothing is written.
"""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preprocess.shared.units import duration, size
from trainer.config import Config
from trainer.data.batches import TrainingBatches, open_training_data
from trainer.parallel.topology import Topology
from trainer.recipes import settle
from trainer.runs import checkpoint, resuming, run_folder, summary
from trainer.training import fine_tuning
from trainer.training.schedule import Schedule
from trainer.training.step import Trainer

TRIALS = 3
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss
FORWARD = 1 / 3  # the share of a step that an evaluation takes: backward costs about twice the forward pass


def show(config: Config, topology: Topology) -> None:
    """Every rank calls it; rank 0 prints. Raises UserError where the run would raise one at its start."""
    store = open_training_data(config.run.store, config.augment.crop_size)
    config, reasons = settle(config, len(store.train))
    trainer = Trainer(config, topology, len(store.classes))
    schedule = Schedule(config.optim, len(store.train) / trainer.batch_size)
    last = schedule.last_step()
    if config.run.max_steps is not None:
        last = min(last, config.run.max_steps)
    activations, seconds = measure(trainer)
    if not topology.is_root:
        return
    run, config = resuming.choose(config, store)
    done = step_of_run(run, config, store.fingerprint)
    begin = "start anew"
    if config.run.init_from and not done:
        begin = f"be a new run, which {fine_tuning.read(config, store).sentence}"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    batch = trainer.batch_size
    parameters = sum(stage.master_weights.numel() for stages in trainer.flat for stage in stages)
    waiting = (TrainingBatches.AHEAD + 1) * math.prod(trainer.input_shape) * 4
    # Kept in addition: the one before the newest, the best, and the one that is being written.
    kept = config.checkpoint.keep + 3
    whole = 2 * parameters if topology.world.size > topology.pairs else parameters
    validations = (last - done) / schedule.steps_per_epoch * len(store.val) * FORWARD
    left = seconds * ((last - done) + validations / batch)
    share, fixed = trainer.local_batch, held(trainer)
    shape = " x ".join(map(str, trainer.input_shape))
    for line in (
        f"{topology.describe()}, {trainer.precision}",
        *reasons,
        *summary.settings(config),
        f"{run}: would {f'continue from step {done}' if done else begin}",
        f"steps: {last - done:,} of {batch} images, to step {last:,}: "
        f"{last / schedule.steps_per_epoch:.1f} epochs of {len(store.train):,} images",
        f"memory a rank: at least {size(fixed + activations + waiting)}",
        f"  {size(fixed):>8}  {parameters:,} parameters x {fixed / parameters:g} bytes: {arrays(trainer)}",
        f"  {size(activations):>8}  kept for the backward pass by {share} images, measured",
        f"  {size(waiting):>8}  {TrainingBatches.AHEAD + 1} batches of {shape} float32",
        f"  {size(most):>8}  was the peak of this rank in these steps, with all libraries",
        f"disk: {size(kept * 8 * whole)} for at most {kept} checkpoints of {whole:,} parameters x 8 bytes",
        f"time: about {duration(left)} with a validation after each epoch, at "
        f"{batch / seconds:,.1f} img/s: {seconds:.3g} s a step, median of {TRIALS}, without waits",
        "nothing was written",
    ):
        print(line)


def measure(trainer: Trainer) -> tuple[int, float]:
    """Bytes that this rank keeps for the backward pass, and the median of the seconds of a step."""
    device = trainer.topology.device
    images_BCHW = torch.randn(trainer.input_shape, device=device)
    images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    labels_B = torch.zeros(trainer.local_batch, dtype=torch.int64, device=device)
    flat = [stage for stages in trainer.flat for stage in stages]
    weights = [w for stage in flat for w in (stage.master_weights, stage.compute_weights)]
    own = {w.untyped_storage().data_ptr() for w in weights}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        trainer.train_step(images_BCHW, labels_B, 0, 0.0)  # the first also compiles
    times = []
    for _ in range(TRIALS):
        begin = time.perf_counter()
        trainer.train_step(images_BCHW, labels_B, 0, 0.0)  # waits for the loss on the host
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return sum(kept.values()), statistics.median(times)


def held(trainer: Trainer) -> int:
    """Bytes of the arrays with an element for each parameter of this rank."""
    found = {
        array.data_ptr(): array.nbytes
        for tower in trainer.flat
        for stage in tower
        for array in (
            stage.master_weights,
            stage.compute_weights,
            stage.grads,
            stage.reduced_grads,
            stage.momenta,
        )
    }
    return sum(found.values())


def arrays(trainer: Trainer) -> str:
    """The names of these arrays."""
    stage = trainer.flat[0][0]
    names = ["weight"]
    names += ["its rounded copy"] if stage.compute_weights is not stage.master_weights else []
    names += ["gradient"]
    names += ["its sum over the pairs"] if stage.reduced_grads is not stage.grads else []
    return ", ".join([*names, "momentum"])


def step_of_run(run: Path, config: Config, fingerprint: str) -> int:
    """The step that the run would continue from. Raises UserError when it was started with other settings."""
    if not (run / run_folder.CONFIG).exists():
        return 0
    run_folder.changes(run, config, fingerprint)
    if config.run.resume not in ("auto", "never"):
        return checkpoint.verified(Path(config.run.resume)).step
    return checkpoint.find(run)[0].step if checkpoint.exists(run) else 0
