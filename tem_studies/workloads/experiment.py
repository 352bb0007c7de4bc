"""One run from its configuration to its result: load, build, prune, train, test."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tem_tf
from tem_studies.refusal import Refusal, refusing
from tem_studies.workloads import pruning
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.evaluation import Evaluation, named, shown
from tem_studies.workloads.logdir import INTERRUPTED, RESULT_NAME, STEPS_NAME
from tem_studies.workloads.optimizers import make_optimizer
from tem_studies.workloads.progress import Progress
from tem_studies.workloads.replicas import from_chief, spans_processes
from tem_studies.workloads.results import RunDirectory, Stopwatch
from tem_studies.workloads.run_result import describe, make_result
from tem_studies.workloads.run_state import RunState
from tem_studies.workloads.setting_warnings import warnings_of
from tem_studies.workloads.stop_signals import left_to_the_checkpoint
from tem_studies.workloads.tasks import KINDS
from tem_studies.workloads.training import Trainer
from tem_tf import is_chief
from tem_tf.nonfinite import is_nonfinite_error

# Steps of the first call, before the speed is known. Our choice.
_FIRST_STEPS = 5


class Experiment:
    """One run, ready to start.

    Args:
        configuration: The run's settings.
        strategy: Where the replicas live.
        data: What the task's kind has loaded, the same on all workers.
        stopwatch: Goes on counting the seconds of each phase.
        resume_interval: Steps between two checkpoints of the whole run, from which it
            goes on if it was killed; None: it begins anew, and cannot go on.
        name: Begins its lines on the terminal; "": nothing.

    Raises:
        Refusal: network, data and settings do not fit together, or the run's
            directory cannot be written to.
    """

    def __init__(
        self,
        configuration: Configuration,
        strategy: tf.distribute.Strategy,
        data: Any,
        stopwatch: Stopwatch,
        resume_interval: int | None = None,
        name: str = "",
    ) -> None:
        self.configuration = configuration
        self.directory = RunDirectory(
            configuration.logdir, is_chief(), configuration.hyperparameters()
        )
        self._strategy = strategy
        self._data = data
        self._stopwatch = stopwatch
        steps = configuration.train_iterations
        self._progress = Progress(steps, prints=is_chief(), name=name)
        self._state = RunState(stopwatch.seconds)
        self._resume_interval = resume_interval
        self._checkpoint: tem_tf.Checkpoint | None = None
        self._warm_up: tuple[int, float] | None = None

        keras.utils.set_random_seed(configuration.seed)
        with stopwatch("build"):
            replicas = strategy.num_replicas_in_sync
            make = KINDS[configuration.kind].make
            self._task = make(configuration, data, replicas)
            steps_per_epoch = self._task.steps_per_epoch
            if (configuration.accumulate_steps or 1) > steps_per_epoch:
                raise Refusal(
                    f"`accumulate_steps` must be at most the {steps_per_epoch} steps "
                    f"of an epoch. Received: {configuration.accumulate_steps}."
                )
            with strategy.scope():
                self._model = self._task.new_model()
                optimizer = make_optimizer(configuration, steps_per_epoch)
            self._parameters = sum(
                math.prod(v.shape) for v in self._model.trainable_variables
            )
            pruning.kept_entries(self._parameters, configuration.target_sparsity)
            self._trainer = Trainer(
                strategy,
                self._model,
                optimizer,
                self._task.train,
                configuration.batch_size,
                configuration.running_mean_epochs * steps_per_epoch,
                bool(configuration.jit_compile),
                bool(configuration.compile_model),
            )
            self._evaluation = Evaluation(
                self._trainer,
                self._task.unit,
                stopwatch,
                self._progress,
                bool(configuration.running_mean_epochs),
            )
        self.directory.open(keeps=resume_interval is not None)

    def run(self, keeps_interrupted: bool = False) -> dict[str, Any]:
        """Prunes, trains and tests; writes and returns the result. Collective.

        Args:
            keeps_interrupted: Whether a run that Ctrl-C ends writes what there is, with
                the status "interrupted", before the KeyboardInterrupt goes on. Not
                where a result stands for a finished run.

        Returns:
            What result.json holds; result.schema.json describes it. `status` is
            "finished", "goal_reached" or "diverged".

        Raises:
            Refusal: a result cannot be written, as on a full disk; what is to be gone
                on with is another run's.
            tem_tf.Stopped: this run was asked to stop, and can go on.
        """
        try:
            return self._run()
        except KeyboardInterrupt:
            if keeps_interrupted and self._warm_up:  # It has trained.
                self._save_interrupted()
            raise
        finally:
            self.directory.close()

    def _run(self) -> dict[str, Any]:
        configuration, place = self.configuration, self._data.place
        replicas = self._strategy.num_replicas_in_sync
        self._progress.say(
            describe(configuration, self._task, place, self._parameters, replicas)
        )
        for line in warnings_of(configuration):
            self._progress.say(line)
        with left_to_the_checkpoint():
            self._trained()
        state, test = self._state, None
        if state.status != "diverged":
            self._save_weights()  # Before the test, which may take long.
            if self._task.test is not None:
                test = self._score(self._task.test)
            with self._stopwatch("test"):
                sample = self._task.sample(self._model)
            if sample is not None:
                self._progress.say(sample)
        result = self._write(state.status, test)
        self.directory.forget_resume()
        return result

    def _write(
        self, status: str | None, test: dict[str, float] | None
    ) -> dict[str, Any]:
        """Writes steps and result; returns it."""
        self.directory.save_steps(self._state.steps())
        replicas, place = self._strategy.num_replicas_in_sync, self._data.place
        result = make_result(
            *(self.configuration, replicas, place, self._task, self._trainer),
            *(self._state, status, test),
        )
        self.directory.save_result(result)
        return result

    def _save_interrupted(self) -> None:
        """Writes what there is. Not collective: other processes may have ended.

        With one process what was done since the last check is counted, too.
        """
        if not spans_processes(self._strategy):
            self._read_records()
            optimizer = self._trainer.optimizer
            self._state.communication = optimizer.communication_summary()
        self._write(INTERRUPTED, None)
        place = self.directory.path
        self._progress.say(
            f"interrupted after {self._trainer.steps} steps: their history is in "
            f"{place / RESULT_NAME} and {STEPS_NAME}"
        )

    def _trained(self) -> None:
        """Trains to the end, which is saved."""
        self._go_on()
        state = self._state
        with self._stopwatch("prune"):
            if state.masks is None:
                state.masks = self._new_masks()
            self._trainer.prune(state.masks)
        with self._stopwatch("build"):
            self._trainer.compile()
        self._progress.say(f"gradients: {self._trainer.optimizer.path}")
        if state.status is None:
            state.status = self._train()
        if self._checkpoint is not None and state.status != "diverged":
            self._checkpoint.end(self._trainer.steps)

    def _go_on(self) -> None:
        """Restores what a killed run has left, and from now on saves. Collective."""
        if self._resume_interval is None:
            return
        configuration = self.configuration
        self._checkpoint = tem_tf.Checkpoint(
            self.directory.resume_path, self._resume_interval
        )
        facts = configuration.shared() | {"checksum of the data": self._data.digest()}
        del facts["workers"]  # Their number may change.
        with refusing(ValueError):
            step = self._checkpoint.begin(
                self._model,
                self._trainer.optimizer,
                self._trainer.parts() | self._state.parts(),
                facts,
                self._read_records,
            )
        self.directory.go_on_from(step)
        if step:
            self._trainer.go_on_from(step)
            self._task.skip(step)
            self._progress.say(f"goes on after {step} steps")

    def _new_masks(self) -> list[np.ndarray]:
        """Makes the masks, equal on all workers.

        The chief alone computes them and sends them round: machines of different kinds
        may round differently, and a mask must not. It uses a copy of the network
        outside the strategy, so that the masks do not depend on the number of workers.
        """
        sparsity = self.configuration.target_sparsity
        masks = [np.ones(v.shape, np.float32) for v in self._model.trainable_variables]
        if sparsity > 0:
            self._progress.say(f"pruning {100 * sparsity:g} % of the network ...")
            if is_chief():
                with self._progress.waiting("pruning"):
                    masks = pruning.snip(
                        self._task.new_model(),
                        self._task.train,
                        self._task.pruning_order,
                        sparsity,
                    )
            masks = from_chief(self._strategy, masks)
            kept, total = sum(int(m.sum()) for m in masks), sum(m.size for m in masks)
            self._progress.say(f"pruned: {kept:,} of {total:,} entries are kept")
        return masks

    def _train(self) -> str:
        """Trains until the last step, the goal or divergence; returns the status."""
        configuration = self.configuration
        while self._trainer.steps < configuration.train_iterations:
            try:
                self._train_until(self._next_stop())
            except tf.errors.InvalidArgumentError as error:
                # Raised on all workers at the same step; no collective works after it.
                if not is_nonfinite_error(error):
                    raise
                self._progress.say("training diverged: a gradient is not finite")
                return "diverged"
            step, validation = self._trainer.steps, None
            is_last = step == configuration.train_iterations
            if step % configuration.check_interval == 0 or is_last:
                train, validation = self._check()
                if not math.isfinite(train.loss) or not math.isfinite(validation.loss):
                    self._progress.say("training diverged: the loss is not finite")
                    return "diverged"
            if step % configuration.save_interval == 0:
                self._save_weights()
            if self._is_goal_reached(validation):
                if validation is None:  # The result tells of this step, too.
                    self._check()
                return "goal_reached"
            if self._checkpoint is not None and not is_last:
                self._checkpoint.after(step)
        return "finished"

    def _next_stop(self) -> int:
        """The next step after which there is something to do."""
        configuration, step = self.configuration, self._trainer.steps
        intervals = [configuration.check_interval, configuration.save_interval]
        if configuration.goal_error is not None:
            intervals.append(configuration.check_interval_arrival)
        if self._resume_interval is not None:
            intervals.append(self._resume_interval)
        stops = [step - step % interval + interval for interval in intervals]
        return min(configuration.train_iterations, *stops)

    def _train_until(self, stop: int) -> None:
        trainer = self._trainer
        while trainer.steps < stop:
            with self._stopwatch("train"):
                # Two calls between two lines of progress; a few steps while the speed
                # is not known.
                fitting = round(self._speed() * self._progress.seconds / 2)
                fitting = max(1, fitting) if trainer.steps else _FIRST_STEPS
                left = min(stop - trainer.steps, trainer.records.room)
                steps = min(left, fitting, trainer.steps_per_call)
                trainer.run(self._task.take(steps))
                if steps == left:
                    self._read_records()
            if not self._warm_up:
                self._warm_up = trainer.steps, self._stopwatch.seconds["train"]
            if trainer.steps < stop and self._progress.is_due():
                self._progress.report(trainer.steps, self._speed())
            if trainer.steps < stop and self._checkpoint is not None:
                self._checkpoint.after(trainer.steps)

    def _read_records(self) -> None:
        """Takes what the trainer has noted of steps since the last time. Collective."""
        self._state.records.append(self._trainer.records.read())

    def _speed(self) -> float:
        """Steps per second of training, without the first call, which is slower."""
        steps, seconds = self._trainer.steps, self._stopwatch.seconds["train"]
        first_steps, first_seconds = self._warm_up or (0, 0.0)
        if steps > first_steps:
            steps, seconds = steps - first_steps, seconds - first_seconds
        return steps / max(seconds, 1e-9)

    def _check(self) -> tuple[Any, Any]:
        """Validates, and records, logs and prints the state of training. Collective."""
        trainer = self._trainer
        step, train = trainer.steps, trainer.read_meters()
        validation = self._validate()
        summary = trainer.optimizer.communication_summary()
        learning_rate = float(
            keras.ops.convert_to_numpy(trainer.optimizer.learning_rate)
        )
        self._state.communication = summary
        means = self._evaluation.mean(self._task.validation, "validate")
        self._state.history.append(
            {
                "step": step,
                **train._asdict(),
                **named("validation", validation),
                **means,
                "learning_rate": learning_rate,
                "density": summary["density"],
                "payload_bytes": summary["payload_bytes"],
                "padded_bytes": summary["padded_bytes"],
            }
        )
        extra = {"learning_rate": learning_rate, "steps_per_second": self._speed()}
        self.directory.log_check(step, train, validation, extra | means)
        self.directory.log_communication(step, summary)
        self._progress.report(
            step,
            self._speed(),
            f"loss {train.loss:.4f}  {shown(validation)}  "
            f"density {100 * summary['density']:.3g} %",
        )
        return train, validation

    def _is_goal_reached(self, validation: Any) -> bool:
        """Whether the error on the validation split is at most the goal. Collective."""
        configuration = self.configuration
        if (
            configuration.goal_error is None
            or self._trainer.steps % configuration.check_interval_arrival
        ):
            return False
        validation = validation or self._validate()
        # Without the last digits: 1 - 0.85 is more than 0.15 in floating point.
        if round(1 - validation.accuracy, 9) > configuration.goal_error:
            return False
        self._progress.say(
            f"goal reached: validation error {1 - validation.accuracy:.4f} after "
            f"{self._trainer.steps} steps"
        )
        return True

    def _validate(self) -> Any:
        return self._evaluation.last(self._task.validation, "validate")

    def _score(self, split: Any) -> dict[str, float]:
        """The score of the last weights, and of their running mean. Collective."""
        scores = self._evaluation.last(split, "test")._asdict()
        return scores | self._evaluation.mean(split, "test")

    def _save_weights(self) -> None:
        """Collective, though the chief alone writes."""
        self._trainer.synchronise()
        self.directory.save_weights(self._trainer.steps, self._model)
