"""The training loop: steps, and what happens between them: log, validate, save, stop."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from preprocess.store import Store
from trainer import checkpoint, figures, progress, runs, summary
from trainer.config import Config
from trainer.data import Batch, TrainingBatches
from trainer.evaluate import CENTER, evaluate
from trainer.eventlog import RunLog
from trainer.health import Doctor, Observation
from trainer.metrics import Meter
from trainer.optim import Schedule
from trainer.requests import Request, Requests
from trainer.saving import Writer
from trainer.step import Trainer
from trainer.topology import agree, end_all
from trainer.watchdog import Watchdog

COMPLETE = 0
TO_BE_CONTINUED = 75  # EX_TEMPFAIL of sysexits.h: try again
EVALUATION_BATCH = 64


class Loop:
    """One run from wherever it stands to its end."""

    def __init__(self, config: Config, store: Store, trainer: Trainer, run: Path, requests: Requests) -> None:
        """`config` is settled; `run` is the folder of the run."""
        self.config, self.store, self.trainer, self.run, self.requests = config, store, trainer, run, requests
        self.topology = trainer.topology
        self.doctor = Doctor(trainer.classes, config.network.activation)
        self.schedule = Schedule(config.optim, len(store.train) / trainer.batch_size)
        self.writer = Writer(run, self.topology, config.session.keep)
        self.step = 0
        self.samples = ""
        """SHA-256 of the pictures that this rank's pair was trained on, in their order, chained by step."""
        self.last_step = self.schedule.last_step()
        if config.session.max_steps is not None:
            self.last_step = min(self.last_step, config.session.max_steps)

    def say(self, text: str) -> None:
        """One line for the user, from rank 0 alone."""
        if self.topology.leads:
            tqdm.write(text)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint."""
        checkpoint.load(found, self.trainer.towers, self.trainer.flat)
        self.step = found.state["step"]
        self.samples = found.state.get("samples", "")
        self.schedule.restore(found.state["schedule"])
        self.say(f"{self.run}: going on from step {self.step}")

    def train(self) -> int:
        """Run to the end; returns the exit code."""
        session = self.config.session
        log = RunLog(self.run / runs.LOG, self.step) if self.topology.leads else None
        if log:
            ranks, device = self.topology.world.size, self.topology.device.type
            log.write(step=self.step, ranks=ranks, device=device, last_step=self.last_step)
        batches = TrainingBatches(
            self.store,
            self.config.augment,
            session.seed,
            self.trainer.batch_size,
            self.trainer.positions(),
            self.step,
            self.last_step,
            self.topology.threads,
            self.topology.device,
        )
        bar = progress.pictures(
            self.last_step * self.trainer.batch_size,
            self.step * self.trainer.batch_size,
            self.run.name,
            self.topology.leads,
        )
        meter = Meter(self.trainer.batch_size)
        watchdog = Watchdog(self.topology, session.timeout, end_all)
        self.trainer.mark = watchdog.mark
        try:
            watchdog.mark("reading pictures")
            for batch in meter.waits(batches):
                watchdog.mark_step(self.step)
                lr = self.schedule.rate(self.step)
                looks = (self.step + 1) % session.log_every == 0
                observation = Observation(self.trainer.towers) if looks else None
                meter.step(self._train_on(batch, lr, observation))
                self.step += 1
                bar.update(self.trainer.batch_size)
                bar.set_postfix(loss=f"{meter.recent_loss:.3f}", lr=f"{lr:.2g}", refresh=False)
                if observation:
                    self._look(observation, meter.read(), lr, log)
                request = Request(agree(self.topology, self.requests.look(self.run)))
                ended = False
                if self.schedule.ends_epoch(self.step):
                    ended = self._after_epoch(log)
                    meter.pause()
                elif request or self.step == self.last_step or self._due():
                    self._save()
                self.writer.check()
                if request is Request.SAVE and self.topology.leads:
                    self.requests.saved(self.run)
                if request is Request.STOP and not ended and self.step < self.last_step:
                    self.writer.finish()
                    self.say(f"asked to stop: saved at step {self.step}; the same command goes on from here")
                    return TO_BE_CONTINUED
                if ended:
                    break
                watchdog.mark("reading pictures")
            watchdog.mark("writing the last checkpoint")
            self.writer.finish()
            self.topology.world.Barrier()
        finally:
            watchdog.close()
            bar.close()
            batches.close()
            if log:
                log.close()
        if self.topology.leads:
            self._end()
        return COMPLETE

    def _end(self) -> None:
        """What rank 0 does once all is trained and saved."""
        session = self.config.session
        (self.run / runs.COMPLETE).write_text(f"{self.step} steps\n")
        if session.figures:
            figures.at_the_end(self.run, session.store, self.topology.device.type, self.say)
        classes, pictures = len(self.store.classes), len(self.store.val)
        for line in summary.ending(self.run, self.run / runs.LOG, self.step, classes, pictures):
            self.say(line)

    def _train_on(self, batch: Batch, lr: float, observation: Observation | None) -> float:
        device, freeze = self.topology.device, self.config.optim.freeze_conv1_epoch
        loss = self.trainer.train_step(
            batch.images_BCHW.to(device),
            batch.labels_B.to(device),
            self.step,
            lr,
            frozen=("conv1",) if freeze is not None and self._epoch() >= freeze else (),
            observation=observation,
        )
        self.samples = hashlib.sha256(self.samples.encode() + batch.indices_B.tobytes()).hexdigest()
        return loss

    def _look(
        self, observation: Observation, measured: dict[str, float], lr: float, log: RunLog | None
    ) -> None:
        """Log the last steps, and what the layers look like; warn of a network that dies."""
        observation.close()
        seen = observation.summary(self.trainer.transport)
        if log:
            log.write(step=self.step, epoch=self._epoch(), lr=lr, **measured, **seen)
        warning = self.doctor.diagnose(seen, measured["loss"], self._epoch(), lr)
        if warning:
            self.say(f"warning: {warning}")

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
            self.say(f"epoch {epoch}: validation error {top1:.2f} % top-1, {top5:.2f} % top-5")
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
            "samples": self.samples,
            "versions": checkpoint.versions(),
        }
        self.writer.save(self.trainer.towers, self.trainer.flat, state, best)
