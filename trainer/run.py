"""Train: the loop and its command.

    mpirun -n 8 python -m trainer.run         four pairs of towers
    mpirun -n 2 python -m trainer.run         one pair
    python -m trainer.run                     both towers in one process

Exit code 0: complete. 75: saved, and to be continued by the same command. Anything else: failed.
"""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess.store import Store
from trainer import checkpoint, runs
from trainer.cli import parse_config
from trainer.config import Config, settle
from trainer.data import Batch, TrainingBatches, open_data
from trainer.errors import UserError
from trainer.evaluate import CENTER, evaluate
from trainer.metrics import Meter, RunLog
from trainer.optim import Schedule
from trainer.step import Trainer
from trainer.topology import Topology, agree, all_or_none, arrange

TO_BE_CONTINUED = 75  # EX_TEMPFAIL of sysexits.h: try again
EVALUATION_BATCH = 64


class Loop:
    """One run from wherever it stands to its end."""

    def __init__(self, config: Config, topology: Topology) -> None:
        self.topology = topology
        self.store: Store = open_data(config.session.store)
        self.config, reasons = settle(config, len(self.store.train))
        self.trainer = Trainer(self.config, topology, len(self.store.classes))
        run = self.config.session.run or (runs.choose(self.config) if topology.leads else None)
        self.run: Path = topology.world.bcast(run)
        self.schedule = Schedule(self.config.optim, len(self.store.train) / self.trainer.batch_size)
        self.step = 0
        self.signalled = 0
        self._say(f"{topology.describe()}, {self.trainer.precision}")
        for reason in reasons:
            self._say(reason)
        self._resume()
        self.last_step = self.schedule.last_step()
        if self.config.session.max_steps is not None:
            self.last_step = min(self.last_step, self.config.session.max_steps)

    def _say(self, text: str) -> None:
        if self.topology.leads:
            tqdm.write(text)

    def _resume(self) -> None:
        """Go on from a checkpoint where there is one; else start anew and write down how."""
        wish, world = self.config.session.resume, self.topology.world
        started = (self.run / runs.CONFIG).exists()
        world.Barrier()  # all ranks have looked before rank 0 writes
        if wish == "never" and started:
            raise UserError(f"{self.run} exists already; name another --run, or leave out --resume never.")
        if started:
            runs.refuse_if_different(self.run, self.config, self.store.fingerprint)
        if wish not in ("auto", "never"):
            self._load(wish)
        elif started and checkpoint.exists(self.run):
            self._load(checkpoint.LATEST)
        else:
            self._say(f"{self.run}: a new run")
        if self.topology.leads:
            (self.run / runs.COMPLETE).unlink(missing_ok=True)
            runs.write_config(self.run, self.config, self.store.fingerprint)

    def _load(self, which: str) -> None:
        # One rank verifies, all read.
        found, remarks = self.topology.world.bcast(
            checkpoint.find(self.run, which) if self.topology.leads else None
        )
        for remark in remarks:
            self._say(remark)
        checkpoint.load(found, self.trainer.towers, self.trainer.flat)
        self.step = found.state["step"]
        self.schedule.restore(found.state["schedule"])
        self._say(f"{self.run}: going on from step {self.step}")

    def train(self) -> int:
        """Run to the end; returns the exit code."""
        for name in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(name, self._note_signal)
        session = self.config.session
        log = RunLog(self.run / runs.LOG, self.step) if self.topology.leads else None
        batches = TrainingBatches(
            self.store,
            self.config.augment,
            session.seed,
            self.trainer.batch_size,
            self.trainer.positions(),
            self.step,
            self.last_step,
        )
        bar = tqdm(
            total=self.last_step * self.trainer.batch_size,
            initial=self.step * self.trainer.batch_size,
            unit="img",
            unit_scale=True,
            desc=self.run.name,
            smoothing=0.1,
            mininterval=0.5 if sys.stderr.isatty() else 10,  # seconds; a log wants few lines
            dynamic_ncols=True,
            disable=not self.topology.leads,
        )
        meter = Meter(self.trainer.batch_size)
        try:
            for batch in meter.waits(batches):
                lr = self.schedule.rate(self.step)
                meter.step(self._train_on(batch, lr))
                self.step += 1
                bar.update(self.trainer.batch_size)
                bar.set_postfix(loss=f"{meter.recent_loss:.3f}", lr=f"{lr:.2g}", refresh=False)
                if log and self.step % session.log_every == 0:
                    log.write(step=self.step, epoch=self._epoch(), lr=lr, **meter.read())
                signalled = agree(self.topology, self.signalled)
                ended = False
                if self.schedule.ends_epoch(self.step):
                    ended = self._after_epoch(log)
                    meter.pause()
                elif signalled or self.step == self.last_step or self._due():
                    self._save()
                if signalled and not ended and self.step < self.last_step:
                    self._say(f"a signal: saved at step {self.step}; the same command goes on from here")
                    return TO_BE_CONTINUED
                if ended:
                    break
        finally:
            bar.close()
            batches.close()
            if log:
                log.close()
        if self.topology.leads:
            (self.run / runs.COMPLETE).write_text(f"{self.step} steps\n")
        best = self.schedule.best_error
        error = "" if math.isinf(best) else f", lowest validation error {100 * best:.2f} % top-1"
        self._say(f"{self.run}: complete after {self.step} steps{error}")
        self._say("evaluate it with: python -m trainer.evaluate --ten-crop")
        return 0

    def _train_on(self, batch: Batch, lr: float) -> float:
        device, freeze = self.topology.device, self.config.optim.freeze_conv1_epoch
        return self.trainer.train_step(
            batch.images_BCHW.to(device),
            batch.labels_B.to(device),
            self.step,
            lr,
            frozen=("conv1",) if freeze is not None and self._epoch() >= freeze else (),
        )

    def _epoch(self) -> float:
        return self.step / self.schedule.steps_per_epoch

    def _due(self) -> bool:
        every = self.config.session.checkpoint_every
        return every is not None and self.step % every == 0

    def _after_epoch(self, log: RunLog | None) -> bool:
        """Validate, log, save; True when the schedule ends the run."""
        epoch, ended, best = round(self._epoch()), False, False
        if len(self.store.val):
            c = evaluate(self.trainer, self.store, False, EVALUATION_BATCH, progress="validation")[CENTER]
            best = c.top1_error < self.schedule.best_error
            ended = self.schedule.after_epoch(c.top1_error)
            if log:
                log.write(
                    step=self.step, epoch=epoch, val_top1_error=c.top1_error, val_top5_error=c.top5_error
                )
            top1, top5 = 100 * c.top1_error, 100 * c.top5_error
            self._say(f"epoch {epoch}: validation error {top1:.2f} % top-1, {top5:.2f} % top-5")
        self._save(best)
        return ended

    def _save(self, best: bool = False) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "epoch": self._epoch(),
            "schedule": self.schedule.state(),
            "seed": self.config.session.seed,
            "best": {"top1_error": self.schedule.state()["best_error"]},
            "world": self.topology.world.size,
            "versions": checkpoint.versions(),
        }
        keep = self.config.session.keep
        checkpoint.save(self.run, self.trainer.towers, self.trainer.flat, state, self.topology, keep, best)

    def _note_signal(self, number: int, frame: Any) -> None:
        self.signalled = number


def main(argv: Sequence[str] | None = None) -> None:
    with all_or_none():
        config = parse_config(argv)
        topology = arrange(config.session.device)
        code = Loop(config, topology).train()
        topology.world.Barrier()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
