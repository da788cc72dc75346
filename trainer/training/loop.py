"""The training loop: steps, and between them the log, checkpoints, validation and requests to stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from preprocess.shared import progress
from preprocess.store import Store
from trainer.config import Config
from trainer.data.batches import Batch, TrainingBatches
from trainer.errors import UserError
from trainer.evaluation.metrics import Counts
from trainer.evaluation.results import CENTER
from trainer.evaluation.validation import StoppedError, evaluate
from trainer.parallel.agreement import max_over_ranks, on_root
from trainer.parallel.watchdog import Watchdog
from trainer.runs import checkpoint, resuming, run_folder
from trainer.runs.checkpoint import Checkpoint
from trainer.runs.checkpoint_writer import Writer
from trainer.runs.lock import RunLock
from trainer.runs.log import RunLog
from trainer.runs.training_set import TrainingSet
from trainer.training.health import HealthMonitor, Observation
from trainer.training.meter import Meter
from trainer.training.optimizer import largest_magnitude
from trainer.training.schedule import Schedule
from trainer.training.signals import Request, Requests
from trainer.training.state import RunState
from trainer.training.step import DivergedError, Trainer

COMPLETE = 0
TO_BE_CONTINUED = 75  # EX_TEMPFAIL of sysexits.h: try again
WORSE_THAN_GUESSING = 2.0
"""A loss of so many nats above ln K, that of a uniform guess, is a network that is diverging."""
LARGEST = 1e6
"""No weight of a network that can be trained further is as large: activations would overflow within a few
layers. The weights of the paper's networks are below 10."""


class Loop:
    """One run, from where it stands to its end."""

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
        """`config` has no open choices; `run` is the run's folder; rank 0 holds its lock."""
        self.config, self.store, self.trainer, self.run, self.requests = config, store, trainer, run, requests
        self.topology, self.watchdog, self.lock = trainer.topology, watchdog, lock
        self.health = HealthMonitor(trainer.classes, config.network.activation)
        self.schedule = Schedule(config.optim, len(store.train) / trainer.batch_size)
        self.state = RunState(self.schedule)
        self.writer = Writer(run, self.topology, config.checkpoint.keep, TrainingSet.of(store))
        self.log: RunLog | None = None
        """Rank 0's, from the start of training."""
        self.guessing = math.log(trainer.classes)
        """The loss of a network that gives all classes the same probability."""
        self.counts: Counts | None = None
        """The errors of the network as it is now, once they are measured."""
        self.last_step = self.schedule.last_step()
        if config.run.max_steps is not None:
            self.last_step = min(self.last_step, config.run.max_steps)

    def say(self, text: str) -> None:
        """Print one line, on rank 0 alone."""
        if self.topology.is_root:
            progress.write(text)

    def restore(self, found: Checkpoint) -> None:
        """Continue from a checkpoint. All ranks call it; pair 0 reads."""
        for tower, tensors in self.trainer.tensors().items():
            checkpoint.load(found, tower, tensors, self.topology.tower_comm)
        self.trainer.after_loading()
        self.state.restore(found.state)
        self.writer.resumed(self.state.step)
        recorded = on_root(self.topology.world, lambda: checkpoint.recorded_validation(found.path))
        self.counts = Counts.from_dict(recorded) if recorded else None
        self.say(f"{self.run}: continuing from step {self.state.step}")

    def train(self, changed: dict[str, list[Any]] | None = None) -> int:
        """Run to the end; returns the exit code. `changed`: settings that are new, for the log."""
        on_root(self.topology.world, lambda: self._open_log(changed))
        batches = TrainingBatches(
            self.store,
            self.config.augment,
            self.config.run.seed,
            self.trainer.batch_size,
            self.trainer.positions(),
            self.state.step,
            self.last_step,
            self.topology.threads,
            self.topology.device,
        )
        bar = progress.images(
            self.last_step * self.trainer.batch_size,
            self.state.step * self.trainer.batch_size,
            self.run.name,
            self.topology.is_root,
        )
        self.trainer.network.mark = self.watchdog.mark
        try:
            stopped = self._steps(batches, bar)
            self._request()  # or an end whose log was not written would call itself complete
            self.watchdog.mark("writing the last checkpoint")
            self.writer.close()
            self.topology.world.Barrier()
        except DivergedError as error:
            self.writer.close()
            raise self._diverged(str(error)) from None
        except Exception:
            self.writer.wait_after_error()
            raise
        finally:
            self.watchdog.close()
            bar.close()
            batches.close()
            if self.log:
                self.log.close()
        if stopped:
            again = "the same command" + ("" if self.config.run.resume == "auto" else " without --resume")
            self.say(f"asked to stop: saved at step {self.state.step}; {again} continues from here")
            return TO_BE_CONTINUED
        complete = self.run / run_folder.COMPLETE
        on_root(self.topology.world, lambda: complete.write_text(f"{self.state.step} steps\n"))
        return COMPLETE

    def _open_log(self, changed: dict[str, list[Any]] | None) -> None:
        """Rank 0's log, with a line about this start."""
        self.log = RunLog(self.run / run_folder.LOG, self.state.step)
        ranks, device = self.topology.world.size, self.topology.device.type
        new = {"changed": changed} if changed else {}
        self.log.write(step=self.state.step, ranks=ranks, device=device, last_step=self.last_step, **new)

    def _steps(self, batches: TrainingBatches, bar: progress.Progress) -> bool:
        """Every step from here to the last, or to a request to stop; returns whether that was asked."""
        meter, state = Meter(self.trainer.batch_size), self.state
        try:
            if state.epoch_is_open and self._end_epoch():
                return False
            self.watchdog.mark("reading images")
            for batch in meter.waits(batches):
                self.watchdog.mark_step(state.step)
                lr = self.schedule.rate(state.step)
                looks = (state.step + 1) % self.config.run.log_every == 0
                observation = Observation(self.trainer.towers) if looks else None
                loss = self._train_on(batch, lr, observation)
                self.writer.step_taken(sound=loss < self.guessing + WORSE_THAN_GUESSING)
                self.counts = None
                state.advance(batch.indices_B)
                meter.step(loss)
                bar.update(self.trainer.batch_size)
                bar.set_postfix(loss=f"{meter.recent_loss:.3f}", lr=f"{lr:.2g}", refresh=False)
                if observation:
                    self._look(observation, meter.read(), lr)
                request = self._request()
                if request or state.epoch_is_open or state.step == self.last_step or self._due():
                    self._save()
                if request is Request.SAVE and self.topology.is_root:
                    self.writer.finish()
                    self.requests.saved(self.run)
                if request is Request.STOP:
                    return True
                if state.epoch_is_open:
                    if self._end_epoch():
                        return False
                    meter.pause()
                self.watchdog.mark("reading images")
            if self.counts is None and len(self.store.val):
                self._validate()
        except StoppedError:
            return True
        return False

    def _train_on(self, batch: Batch, lr: float, observation: Observation | None) -> float:
        """One step; returns its loss."""
        freeze = self.config.optim.freeze_conv1_epoch
        return self.trainer.train_step(
            batch.images_BCHW,
            batch.labels_B,
            self.state.step,
            lr,
            frozen=("conv1",) if freeze is not None and self.state.epoch >= freeze else (),
            observation=observation,
        )

    def _look(self, observation: Observation, measured: dict[str, float], lr: float) -> None:
        """Log the last steps and the layers' statistics; warn when the network stops learning."""
        observation.close()
        seen = observation.summary(self.trainer.transport)
        if self.log:
            self.log.write(step=self.state.step, epoch=self.state.epoch, lr=lr, **measured, **seen)
        warning = self.health.diagnose(seen, measured["loss"], self.state.epoch, lr)
        if warning:
            self.say(f"warning: {warning}")

    def _request(self) -> Request:
        """What was asked of any rank; all ranks get the same.

        Raises UserError when rank 0 can no longer write to the run's folder.
        """
        failure = self._failure()
        mine = Request.FAIL if failure else self.requests.look(self.run)
        request = Request(max_over_ranks(self.topology, mine))
        if request is Request.FAIL:
            raise UserError(self.topology.world.bcast(failure))
        return request

    def _failure(self) -> str | None:
        """A sentence when rank 0 can no longer write to the run's folder."""
        if self.lock and self.lock.lost():
            return (
                f"{self.run} was removed or moved while it was trained, or another job took it: nothing more "
                f"can be saved there. Step {self.state.step} was reached; earlier checkpoints are where the "
                "folder is now."
            )
        return self.log.failure if self.log else None

    def _due(self) -> bool:
        every = self.config.checkpoint.checkpoint_every
        return every is not None and self.state.step % every == 0

    def _end_epoch(self) -> bool:
        """Validate the network that was saved; True when the schedule ends the run."""
        self.state.epoch_is_open = False
        if not len(self.store.val):
            return False
        return self.schedule.after_epoch(self._validate().top1_error)

    def _validate(self) -> Counts:
        """Measure, record and log the errors of the network that was saved last.

        Raises StoppedError when a request to stop comes meanwhile: the same command starts it again.
        """
        if self.counts is None:
            tallies = evaluate(
                self.trainer.network,
                self.store,
                self.config.augment,
                title="validation",
                stop=lambda: self._request() is Request.STOP,
            )
            self.watchdog.mark("recording the validation error")
            self.counts = tallies[CENTER].counts
            self.writer.record_validation(self.state.step, self.counts.to_dict())
        c, epoch = self.counts, self.state.validated_epoch()
        if self.log and not self.log.has_validation(self.state.step):
            errors = {"val_top1_error": c.top1_error, "val_top5_error": c.top5_error}
            self.log.write(step=self.state.step, epoch=epoch, **errors)
            top1, top5 = 100 * c.top1_error, 100 * c.top5_error
            self.say(f"epoch {epoch}: validation error {top1:.2f} % top-1, {top5:.2f} % top-5")
        return c

    def _save(self) -> None:
        largest = max_over_ranks(self.topology, largest_magnitude(self.trainer.flat))
        if largest > LARGEST:
            raise DivergedError(
                f"After step {self.state.step} weights are as large as {largest:.1e}: training diverged, and "
                "this network was not saved."
            )
        about = {
            "seed": self.config.run.seed,
            "world": self.topology.world.size,
            "versions": checkpoint.versions(),
        }
        self.writer.save(self.trainer.tensors(), self.state.to_dict() | about)

    def _diverged(self, sentence: str) -> UserError:
        """The sentence, and the command that continues from before it at a tenth of the learning rate."""
        path = on_root(self.topology.world, lambda: checkpoint.before_divergence(self.run))
        assert self.config.optim.lr is not None
        lr, ranks = self.config.optim.lr / 10, self.topology.world.size
        return UserError(f"{sentence} {resuming.at_a_lower_rate(self.run, path, lr, ranks)}")
