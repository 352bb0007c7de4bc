"""Keras callbacks that show what the communication costs."""

from __future__ import annotations

import importlib.util
import os

import keras
import tensorflow as tf

from tem_tf import _internals, durable_files, event_files, strategy
from tem_tf.aggregating_optimizer import AggregatingOptimizer
from tem_tf.local_updates import LocalUpdates


class TensorBoardSparsification(keras.callbacks.Callback):
    """Writes the communication metrics of a `SparsifiedOptimizer` to TensorBoard.

    Also those of `LocalUpdates`, per exchange.

    Under `communication/`: of the steps since the last record `density` and
    `bytes_by_dense` (bytes sent, padding included, by those of dense exchanges), and
    per step and replica `entries_sent`, `payload_bytes`, `padded_bytes`, `dense_bytes`;
    of the run so far `total_error`; of the last step `compression_error`,
    `relative_error` (‖e‖²/‖p‖²), `residual_norm`, `residual_max`, `gradient_norm`.
    Under `variables/`, by the path of each variable: of the steps since the last record
    `density` and `mean_relative_error` (sum of ‖e‖² by sum of ‖p‖²); of the run so far
    `total_error`; of the last step `relative_error`, `residual_norm`, `residual_max`,
    `gradient_norm`.

    The step is the optimizer's, so that a resumed run goes on where it was; what a
    killed one had written of later steps is removed. Under `steps_per_execution` a
    record comes after the execution that completes its steps.
    Metrics are summed over workers once per record, by one collective, so the callback
    must be on all workers; the chief alone writes.

    Args:
        log_dir: String. The run's directory; events go to `log_dir/communication`.
        every: Int >= 1, default 100. Steps between records. Lower => more collectives.
        per_variable: Bool, default True. Whether to write `variables/` too.

    Raises:
        ValueError: an argument is out of range, or the model was compiled without
            `SparsifiedOptimizer`.
        ImportError: the package tensorboard is not installed.
    """

    def __init__(
        self, log_dir: str | os.PathLike, every: int = 100, per_variable: bool = True
    ):
        super().__init__()
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(
                f"`every` must be an integer >= 1. Received: every={every!r}"
            )
        if not isinstance(per_variable, bool):
            raise ValueError(
                "`per_variable` must be True or False. "
                f"Received: per_variable={per_variable!r}"
            )
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "TensorBoardSparsification needs the package tensorboard, which "
                "TensorFlow no longer brings. Run `pip install tensorboard`."
            )
        self.log_dir = os.path.join(os.fspath(log_dir), "communication")
        self.every = every
        self.per_variable = per_variable
        self._last: dict[str, float] = {}
        self._last_of: dict[str, dict[str, float]] = {}
        self._offset = 0  # Of the optimizer's steps to those of the metrics.
        self._step = self._recorded = self._batch = 0
        self._has_begun = False
        self._writer = None

    def on_train_begin(self, logs=None):
        optimizer = self._optimizer
        if not isinstance(optimizer, AggregatingOptimizer):
            raise ValueError(
                "TensorBoardSparsification needs a model compiled with a "
                f"SparsifiedOptimizer or LocalUpdates. Received: {self.model.optimizer}"
            )
        self._has_begun = False

    def on_epoch_begin(self, epoch, logs=None):
        self._batch = -1
        if not self._has_begun:
            self._begin()

    def _begin(self) -> None:
        """Starts where the optimizer is, which a checkpoint may have restored."""
        self._has_begun = True
        optimizer, self._last, self._last_of = self._optimizer, {}, {}
        if optimizer.built:
            self._last, self._last_of = self._summaries()
        self._step = self._recorded = self._taken(self._last)
        steps = int(_internals.raw_iterations(optimizer).numpy())
        self._offset = steps - self._step
        trained_with = _internals.strategy_of(optimizer)
        if self._writer is None and strategy.is_chief(trained_with):
            if steps:  # Of a training that was killed later.
                event_files.keep_until(self.log_dir, steps)
            self._writer = tf.summary.create_file_writer(self.log_dir)

    # All workers must take part in a record or none, so what decides is equal on all:
    # Keras's numbers of batches, and the steps that the metrics' sum says were taken.

    def on_train_batch_end(self, batch, logs=None):
        # The number of the batch may be ahead of the steps: an execution is counted as
        # `steps_per_execution` even if the data ended within.
        self._step += batch - self._batch
        self._batch = batch
        if self._is_due(self._step):
            self._record()

    def on_train_end(self, logs=None):
        if self._step > self._recorded:
            self._record(last=True)
        if self._writer is not None:
            self._writer.flush()
            durable_files.sync_files(self.log_dir, event_files.EVENTS)

    def summary(self) -> dict[str, float]:
        """The metrics of the run so far; collective, on all workers."""
        return self._optimizer.communication_summary()

    @property
    def _optimizer(self) -> keras.optimizers.Optimizer:
        """The model's, without what Keras puts around it under mixed_float16."""
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return optimizer.inner_optimizer
        return optimizer

    def _taken(self, summary: dict[str, float]) -> int:
        """The steps that were taken: of `LocalUpdates` the local ones."""
        if isinstance(self._optimizer, LocalUpdates):
            return int(_internals.raw_iterations(self._optimizer).numpy())
        return int(summary.get("steps", 0))

    def _is_due(self, step: int) -> bool:
        return step // self.every > self._recorded // self.every

    def _record(self, last: bool = False) -> None:
        """Sums over workers, and writes if so many steps were taken indeed."""
        now, now_of = self._summaries()
        self._step = self._taken(now)
        if not self._is_due(self._step) and not (last and self._step > self._recorded):
            return
        if self._writer is not None:
            with self._writer.as_default(step=self._step + self._offset):
                for name, value in since(self._last, now).items():
                    tf.summary.scalar(f"communication/{name}", value)
                steps = max(now["steps"] - self._last.get("steps", 0), 1)
                for path, values in now_of.items():
                    before = self._last_of.get(path, {})
                    shown = since_of_variable(before, values, int(steps))
                    for name, value in shown.items():
                        tf.summary.scalar(f"variables/{path}/{name}", value)
        self._last, self._last_of, self._recorded = now, now_of, self._step

    def _summaries(self) -> tuple[dict, dict]:
        summary, by_variable = self._optimizer.communication_summaries()
        return summary, by_variable if self.per_variable else {}


def since(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """What TensorBoard shows of the steps between two communication summaries.

    Args:
        before: The earlier summary, or an empty dict.
        now: The later one.
    """
    sums = ("entries_sent", "payload_bytes", "padded_bytes", "dense_bytes")
    gained = {name: now[name] - before.get(name, 0) for name in sums}
    steps = max(now["steps"] - before.get("steps", 0), 1) * now["replicas"]
    shown = {name: total / steps for name, total in gained.items()}
    sent = gained["payload_bytes"] + gained["padded_bytes"]
    shown["bytes_by_dense"] = sent / max(gained["dense_bytes"], 1)
    shown["density"] = 4 * gained["entries_sent"] / max(gained["dense_bytes"], 1)
    for name in (
        "total_error",
        "compression_error",
        "relative_error",
        "residual_norm",
        "residual_max",
        "gradient_norm",
    ):
        shown[name] = now[name]
    return shown


def since_of_variable(
    before: dict[str, float], now: dict[str, float], steps: int
) -> dict[str, float]:
    """What TensorBoard shows of one variable between two summaries.

    Args:
        before: The earlier summary of the variable, or an empty dict.
        now: The later one.
        steps: Steps between the two.
    """
    entries, error, corrected = (
        now[name] - before.get(name, 0)
        for name in ("entries_sent", "total_error", "total_corrected")
    )
    shown = {
        "density": entries / (steps * now["entries"]),
        "mean_relative_error": error / corrected if corrected > 0 else 0.0,
    }
    for name in (
        "total_error",
        "relative_error",
        "residual_norm",
        "residual_max",
        "gradient_norm",
    ):
        shown[name] = now[name]
    return shown
