"""Running trials: one network, traced once, is trained from its start for each of them.

A trial trains until its validation error comes down to the goal (complete: K steps),
its loss or a gradient is not finite (infeasible), or its steps are used up
(incomplete).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tem_studies.data_parallelism.configuration import Cell
from tem_studies.data_parallelism.lipschitz import SplitGradient, smoothness
from tem_studies.data_parallelism.metaparameters import Point
from tem_studies.data_parallelism.tunable import TunableOptimizer
from tem_studies.refusal import Refusal
from tem_studies.workloads import architectures, pruning
from tem_studies.workloads.batches import DeviceSplit, EpochOrder
from tem_studies.workloads.configuration import Configuration
from tem_studies.workloads.data_sources import Data
from tem_studies.workloads.live_entries import with_live
from tem_studies.workloads.progress import Progress
from tem_studies.workloads.results import PHASES, Stopwatch, pruning_record
from tem_studies.workloads.training import Trainer
from tem_studies.workloads.versions import versions
from tem_tf.nonfinite import is_nonfinite_error

# Longest time in one call of the trainer, once the speed is known. Our choice: between
# two calls a process notices that it should end, and prints how far it is.
_CALL_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data source and its three splits on the device, shared by all cells."""

    data: Data
    train: DeviceSplit
    validation: DeviceSplit
    test: DeviceSplit

    @classmethod
    def of(cls, data: Data) -> Splits:
        """Puts a data source on the device."""
        parts = (data.train, data.validation, data.test)
        return cls(data, *(DeviceSplit(p, data.mean, data.deviation) for p in parts))


class Workbench:
    """Network, optimizer and trainer of one cell, used by trial after trial.

    Args:
        cell: What the trials share.
        splits: The data.
        strategy: Where the replicas live.
        keep_on: Called between calls of the trainer; raises to end the process.

    Attributes:
        model, trainer: The network and what trains it.
        epochs: Shuffles the epochs of the trial at hand.
        gradient: The gradient over the training split, if smoothness is measured.
    """

    def __init__(
        self,
        cell: Cell,
        splits: Splits,
        strategy: tf.distribute.Strategy,
        keep_on: Callable[[], None] = lambda: None,
    ) -> None:
        self.cell = cell
        self.splits = splits
        self._strategy = strategy
        self.keep_on = keep_on
        self._seed: int | None = None
        with strategy.scope():
            self.model = self._new_model(cell.run.seed)
            self._tunable = TunableOptimizer(cell.run)
        if self.model.non_trainable_variables:  # Trials start from weights alone.
            raise Refusal(
                f"`arch` {cell.run.arch} must have trained variables alone in a study. "
                f"Received: {len(self.model.non_trainable_variables)} others, as of "
                "batch normalisation or dropout."
            )
        pruning.kept_entries(self.model.count_params(), cell.run.target_sparsity)
        self.trainer = Trainer(
            strategy,
            self.model,
            self._tunable.optimizer,
            splits.train,
            cell.run.batch_size,
            jit_compile=bool(cell.run.jit_compile),
        )
        self._is_traced = False
        self.gradient = None
        if cell.check_lipschitz:
            # A copy outside the strategy: it lends its layers, not its weights.
            self.gradient = SplitGradient(
                self._new_model(cell.run.seed), splits.train, cell.lipschitz_examples
            )

    def run(
        self,
        point: Point,
        seed: int,
        best: Callable[[], int | None] = lambda: None,
        name: str = "",
    ) -> dict[str, Any]:
        """Runs one trial.

        Args:
            point: Its metaparameters.
            seed: Of initial weights, masks and the order of examples.
            best: Gives the least steps to the result so far; the trial ends once it is
                later than that.
            name: Begins its lines on the terminal.

        Returns:
            What its result.json holds.
        """
        stopwatch = Stopwatch((*PHASES, "lipschitz"))
        progress = Progress(self.cell.run.train_iterations, prints=True, name=name)
        self._prepare(seed, stopwatch, progress)
        run = dataclasses.replace(self.cell.run, **point, seed=seed)
        self._tunable.set(run)
        trial = _Trial(self, run, stopwatch, best, progress)
        status = trial.train()
        trainer, data = self.trainer, self.splits.data
        pruned = pruning_record(self.model, self._masks)
        communication = trainer.optimizer.communication_summary()
        test = None
        if status == "complete":
            with stopwatch("test"):
                test = trainer.evaluate(self.splits.test)._asdict()
        return {
            "status": status,
            "steps_to_result": trial.steps if status == "complete" else None,
            "steps": trial.steps,
            "stopped_beyond": trial.stopped_beyond,
            "metaparameters": point,
            # A trial has no directory of its own name: it is where this file is.
            "configuration": {k: v for k, v in run.as_dict().items() if k != "logdir"},
            "seed": seed,
            "replicas": self._strategy.num_replicas_in_sync,
            "data": {
                "place": data.place,
                "train": len(data.train),
                "validation": len(data.validation),
                "test": len(data.test),
            },
            "versions": versions(),
            "history": trial.history,
            "lipschitz": self.gradient
            and {"examples": self.gradient.examples, "history": trial.lipschitz},
            "test": test,
            "communication": with_live(communication, pruned),
            "pruning": pruned,
            "seconds": stopwatch.seconds,
        }

    def _new_model(self, seed: int) -> Any:
        arch, data = self.cell.run.arch, self.splits.data
        return architectures.build(
            arch, data.input_shape, seed, data.classes, self.cell.run.dtype_policy
        )

    def _prepare(self, seed: int, stopwatch: Stopwatch, progress: Progress) -> None:
        """Puts the network to its start: weights and masks of a seed."""
        data, sparsity = self.splits.data, self.cell.run.target_sparsity
        # Drawn at every sparsity: all see the same training batches.
        self.epochs = data.epochs(seed)
        order = self.epochs.permutation(len(data.train))
        if seed != self._seed:
            with stopwatch("build"):
                model = self._new_model(seed)
                self._weights = model.get_weights()
            if sparsity > 0:
                progress.say(f"pruning {100 * sparsity:g} % of the network ...")
            with stopwatch("prune"), progress.waiting("pruning"):
                self._masks = pruning.snip(model, self.splits.train, order, sparsity)
            self._seed = seed
        self.trainer.restart(self._weights)
        self.trainer.prune(self._masks)
        if not self._is_traced:
            with stopwatch("build"):
                self.trainer.compile()
            self._is_traced = True
        if self.gradient:
            self.gradient.prune(self._masks)


class _Trial:
    """The training of one trial and what is seen on its way."""

    def __init__(
        self,
        bench: Workbench,
        run: Configuration,
        stopwatch: Stopwatch,
        best: Callable[[], int | None],
        progress: Progress,
    ) -> None:
        self.history: list[dict[str, Any]] = []
        self.lipschitz: list[dict[str, Any]] = []
        self.stopped_beyond: int | None = None
        self._bench = bench
        self._cell = bench.cell
        self._trainer = bench.trainer
        self._run = run
        self._stopwatch = stopwatch
        self._best = best
        self._progress = progress
        train = bench.splits.data.train
        self._order = EpochOrder(bench.epochs, len(train), run.batch_size)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._trainer.steps

    def train(self) -> str:
        """Trains to the end; returns the status."""
        while self.steps < self._run.train_iterations:
            try:
                self._train_until(self._next_stop())
            except tf.errors.InvalidArgumentError as error:
                if not is_nonfinite_error(error):
                    raise
                return "infeasible"
            if not self._is_check():
                continue
            validation_error = self._check()
            if validation_error is None:
                return "infeasible"
            if (
                self.steps % self._run.check_interval_arrival == 0
                and validation_error <= self._run.goal_error
            ):
                return "complete"
            best = self._best() if self._cell.stop_beyond_best else None
            # At its last step a trial has not ended early.
            if best is not None and best <= self.steps < self._run.train_iterations:
                self.stopped_beyond = best
                return "incomplete"
        return "incomplete"

    def _intervals(self) -> tuple[int, int]:
        return self._run.check_interval, self._run.check_interval_arrival

    def _is_check(self) -> bool:
        is_last = self.steps == self._run.train_iterations
        return is_last or any(self.steps % i == 0 for i in self._intervals())

    def _steps_per_second(self) -> float:
        return self.steps / max(self._stopwatch.seconds["train"], 1e-9)

    def _next_stop(self) -> int:
        intervals = list(self._intervals())
        if self._cell.check_lipschitz:
            intervals.append(self._cell.lipschitz_interval)
        stops = [self.steps - self.steps % i + i for i in intervals]
        return min(self._run.train_iterations, *stops)

    def _train_until(self, stop: int) -> None:
        if self._cell.check_lipschitz and (
            self.steps % self._cell.lipschitz_interval == 0
        ):
            self._measure_smoothness()
        while self.steps < stop:
            self._bench.keep_on()
            fitting = max(1, int(_CALL_SECONDS * self._steps_per_second()))
            with self._stopwatch("train"):
                self._trainer.run(self._order.take(min(stop - self.steps, fitting)))
            if self.steps < stop and self._progress.is_due():
                self._progress.report(self.steps, self._steps_per_second())

    def _measure_smoothness(self) -> None:
        """Takes one step and measures L along it."""
        step, model = self.steps, self._trainer.model
        before = [v.numpy() for v in model.trainable_variables]
        with self._stopwatch("train"):
            self._trainer.run(self._order.take(1))
        after = [v.numpy() for v in model.trainable_variables]
        with self._stopwatch("lipschitz"):
            value = smoothness(self._bench.gradient, before, after)
        self.lipschitz.append({"step": step, "lipschitz": value})
        shown = "none: the step did not move" if value is None else f"{value:.4g}"
        self._progress.say(f"step {step}  Lipschitz constant {shown}")

    def _check(self) -> float | None:
        """Validates and records; returns the error, None if something is not finite."""
        train = self._trainer.read_meters()
        with self._stopwatch("validate"):
            validation = self._trainer.evaluate(self._bench.splits.validation)
        self.history.append(
            {
                "step": self.steps,
                "loss": train.loss,
                "accuracy": train.accuracy,
                "validation_loss": validation.loss,
                "validation_accuracy": validation.accuracy,
            }
        )
        if self._progress.is_due():
            error = f"validation error {1 - validation.accuracy:.4f}"
            self._progress.report(self.steps, self._steps_per_second(), error)
        if not math.isfinite(train.loss) or not math.isfinite(validation.loss):
            return None
        # Without the last digits: 1 - 0.85 is more than 0.15 in floating point.
        return round(1 - validation.accuracy, 9)
