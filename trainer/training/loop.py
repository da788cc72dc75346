"""The training loop: steps, and what happens between them: log, save, validate, stop."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from preprocess.shared import progress
from preprocess.shared.progress import Progress
from preprocess.store import Store
from trainer import figures
from trainer.config import Config
from trainer.data.batches import Batch, TrainingBatches
from trainer.errors import UserError
from trainer.evaluate import CENTER, StoppedError, evaluate
from trainer.evaluation.metrics import Counts, Meter
from trainer.parallel.topology import max_over_ranks, on_root
from trainer.parallel.watchdog import Watchdog
from trainer.runs import checkpoint, resuming, run_folder, summary
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.checkpoint_writer import LARGEST, Writer, largest_weight
from trainer.runs.lock import RunLock
from trainer.runs.log import RunLog
from trainer.runs.training_set import TrainingSet
from trainer.training.health import HealthMonitor, Observation
from trainer.training.optimizer import Schedule
from trainer.training.signals import Request, Requests
from trainer.training.step import DivergedError, Trainer

COMPLETE = 0
TO_BE_CONTINUED = 75  # EX_TEMPFAIL of sysexits.h: try again
EVALUATION_BATCH = 64
WORSE_THAN_GUESSING = 2.0
"""A loss of so many nats above ln K, that of a uniform guess, is a network that is diverging."""


class Loop:
    """One run from wherever it stands to its end."""

    def __init__(
        self,
        config: Config,
        store: Store,
        trainer: Trainer,
        run: Path,
        requests: Requests,
        watchdog: Watchdog,
        lock: RunLock | None,
    ) -> None:
        """`config` is settled; `run` is the folder of the run; rank 0 has its lock."""
        self.config, self.store, self.trainer, self.run, self.requests = config, store, trainer, run, requests
        self.topology, self.watchdog, self.lock = trainer.topology, watchdog, lock
        self.health = HealthMonitor(trainer.classes, config.network.activation)
        self.schedule = Schedule(config.optim, len(store.train) / trainer.batch_size)
        self.writer = Writer(run, self.topology, config.checkpoint.keep, TrainingSet.of(store))
        self.log: RunLog | None = None
        """Rank 0's, from the start of training."""
        self.step = 0
        self.guessing = math.log(trainer.classes)
        """The loss of a network that gives all classes the same probability."""
        self.samples = ""
        """SHA-256 of the images that this rank's pair was trained on, in their order, chained by step."""
        self.epoch_is_open = False
        """Whether the last checkpoint ends an epoch whose validation the schedule has not counted yet."""
        self.counts: Counts | None = None
        """The errors of the network as it is now, once they are measured."""
        self.last_step = self.schedule.last_step()
        if config.run.max_steps is not None:
            self.last_step = min(self.last_step, config.run.max_steps)

    def say(self, text: str) -> None:
        """One line for the user, from rank 0 alone."""
        if self.topology.is_root:
            progress.write(text)

    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint. All ranks call it; pair 0 reads."""
        checkpoint.load(found, self.trainer.towers, self.trainer.flat, self.topology.tower_comm)
        state = found.state
        self.step, self.samples = found.step, state.get("samples", "")
        self.writer.resumed(self.step)
        self.schedule.restore(state["schedule"])
        self.epoch_is_open = state.get("epoch_is_open", False)
        self.counts = on_root(self.topology.world, lambda: checkpoint.recorded_counts(found.path))
        self.say(f"{self.run}: going on from step {self.step}")

    def train(self, changed: dict[str, list[Any]] | None = None) -> int:
        """Run to the end; returns the exit code. `changed`: settings that are new, for the log."""
        on_root(self.topology.world, lambda: self._open_log(changed))
        batches = TrainingBatches(
            self.store,
            self.config.augment,
            self.config.run.seed,
            self.trainer.batch_size,
            self.trainer.positions(),
            self.step,
            self.last_step,
            self.topology.threads,
            self.topology.device,
        )
        bar = progress.images(
            self.last_step * self.trainer.batch_size,
            self.step * self.trainer.batch_size,
            self.run.name,
            self.topology.is_root,
        )
        self.trainer.mark = self.watchdog.mark
        try:
            stopped = self._steps(batches, bar)
            self._request()  # or an end whose log was not written would call itself complete
            self.watchdog.mark("writing the last checkpoint")
            self.writer.close()
            self.topology.world.Barrier()
        except DivergedError as error:
            self.writer.close()
            raise self._diverged(str(error)) from None
        finally:
            self.watchdog.close()
            bar.close()
            batches.close()
            if self.log:
                self.log.close()
        if stopped:
            again = "the same command" + ("" if self.config.run.resume == "auto" else " without --resume")
            self.say(f"asked to stop: saved at step {self.step}; {again} goes on from here")
            return TO_BE_CONTINUED
        on_root(self.topology.world, self._end)
        return COMPLETE

    def _open_log(self, changed: dict[str, list[Any]] | None) -> None:
        """Rank 0's log, with a line about this start."""
        self.log = RunLog(self.run / run_folder.LOG, self.step)
        ranks, device = self.topology.world.size, self.topology.device.type
        new = {"changed": changed} if changed else {}
        self.log.write(step=self.step, ranks=ranks, device=device, last_step=self.last_step, **new)

    def _steps(self, batches: TrainingBatches, bar: Progress) -> bool:
        """Every step from here to the last, or to a request to stop; returns whether that was asked."""
        meter = Meter(self.trainer.batch_size)
        try:
            if self.epoch_is_open and self._end_epoch():
                return False
            self.watchdog.mark("reading pictures")
            for batch in meter.waits(batches):
                self.watchdog.mark_step(self.step)
                lr = self.schedule.rate(self.step)
                looks = (self.step + 1) % self.config.run.log_every == 0
                observation = Observation(self.trainer.towers) if looks else None
                loss = self._train_on(batch, lr, observation)
                self.writer.step_taken(sound=loss < self.guessing + WORSE_THAN_GUESSING)
                self.counts = None
                self.step += 1
                meter.step(loss)
                bar.update(self.trainer.batch_size)
                bar.set_postfix(loss=f"{meter.recent_loss:.3f}", lr=f"{lr:.2g}", refresh=False)
                if observation:
                    self._look(observation, meter.read(), lr)
                request = self._request()
                self.epoch_is_open = self.schedule.ends_epoch(self.step)
                if request or self.epoch_is_open or self.step == self.last_step or self._due():
                    self._save()
                if request is Request.SAVE and self.topology.is_root:
                    self.writer.finish()
                    self.requests.saved(self.run)
                if request is Request.STOP:
                    return True
                if self.epoch_is_open:
                    if self._end_epoch():
                        return False
                    meter.pause()
                self.watchdog.mark("reading pictures")
            if self.counts is None and len(self.store.val):
                self._validate()
        except StoppedError:
            return True
        return False

    def _request(self) -> Request:
        """What was asked of any rank; all ranks get the same.

        Raises UserError when rank 0 can no longer write to the run's folder.
        """
        failure = self._failure()
        request = Request(
            max_over_ranks(self.topology, Request.FAIL if failure else self.requests.look(self.run))
        )
        if request is Request.FAIL:
            raise UserError(self.topology.world.bcast(failure))
        return request

    def _failure(self) -> str | None:
        """What rank 0 has found wrong with the run's folder."""
        if self.lock and self.lock.lost():
            return (
                f"{self.run} was removed or moved while it was trained, or another job took it: nothing more "
                f"can be saved there. Step {self.step} was reached; earlier checkpoints are where the folder "
                "is now."
            )
        return self.log.failure if self.log else None

    def _end(self) -> None:
        """What rank 0 does once all is trained and saved."""
        (self.run / run_folder.COMPLETE).write_text(f"{self.step} steps\n")
        if self.config.run.figures:
            figures.at_the_end(self.run, self.config.run.store, self.topology.device.type, self.say)
        classes, pictures = len(self.store.classes), len(self.store.val)
        for line in summary.ending(self.run, self.run / run_folder.LOG, self.step, classes, pictures):
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

    def _look(self, observation: Observation, measured: dict[str, float], lr: float) -> None:
        """Log the last steps, and what the layers look like; warn of a network that dies."""
        observation.close()
        seen = observation.summary(self.trainer.transport)
        if self.log:
            self.log.write(step=self.step, epoch=self._epoch(), lr=lr, **measured, **seen)
        warning = self.health.diagnose(seen, measured["loss"], self._epoch(), lr)
        if warning:
            self.say(f"warning: {warning}")

    def _epoch(self) -> float:
        return self.step / self.schedule.steps_per_epoch

    def _due(self) -> bool:
        every = self.config.checkpoint.checkpoint_every
        return every is not None and self.step % every == 0

    def _end_epoch(self) -> bool:
        """Validate the network that was saved; True when the schedule ends the run."""
        self.epoch_is_open = False
        if not len(self.store.val):
            return False
        return self.schedule.after_epoch(self._validate().top1_error)

    def _validate(self) -> Counts:
        """Measure, log and record the errors of the network that was saved last.

        Raises StoppedError when a request to stop comes meanwhile: the same command starts it again.
        """
        if self.counts is None:
            c = evaluate(
                self.trainer,
                self.store,
                False,
                EVALUATION_BATCH,
                progress="validation",
                stop=lambda: self._request() is Request.STOP,
            )[CENTER]
            self.watchdog.mark("recording the validation error")
            self.writer.record_validation(self.step, c)
            self.counts = c
        c = self.counts
        ends = self.schedule.ends_epoch(self.step)  # else the run was told to end within an epoch
        epoch = self.schedule.epochs_done(self.step) if ends else round(self._epoch(), 3)
        if self.log and not self.log.has_validation(self.step):
            errors = {"val_top1_error": c.top1_error, "val_top5_error": c.top5_error}
            self.log.write(step=self.step, epoch=epoch, **errors)
            top1, top5 = 100 * c.top1_error, 100 * c.top5_error
            self.say(f"epoch {epoch}: validation error {top1:.2f} % top-1, {top5:.2f} % top-5")
        return c

    def _save(self) -> None:
        largest = max_over_ranks(self.topology, largest_weight(self.trainer.flat))
        if largest > LARGEST:
            raise DivergedError(
                f"After step {self.step} weights are as large as {largest:.1e}: training diverged, and this "
                "network was not saved."
            )
        state: dict[str, Any] = {
            "step": self.step,
            "epoch": self._epoch(),
            "epoch_is_open": self.epoch_is_open,
            "schedule": self.schedule.state(),
            "seed": self.config.run.seed,
            "world": self.topology.world.size,
            "samples": self.samples,
            "versions": checkpoint.versions(),
        }
        self.writer.save(self.trainer.towers, self.trainer.flat, state)

    def _diverged(self, sentence: str) -> UserError:
        """The sentence with the command that goes on from before the divergence, at a tenth of the rate."""
        path = on_root(self.topology.world, lambda: checkpoint.before_divergence(self.run))
        assert self.config.optim.lr is not None
        lr, ranks = self.config.optim.lr / 10, self.topology.world.size
        return UserError(f"{sentence} {resuming.at_a_lower_rate(self.run, path, lr, ranks)}")
