"""A loop of training that is saved as a whole and goes on from there.

1. begin: all workers restore the newest checkpoint that is whole on all of them
2. after every step: was a worker asked to stop? is it time to save?
3. end: the last step is saved
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import keras
import tensorflow as tf

from tem_tf import _collective_internals, _internals, heartbeat
from tem_tf.aggregating_optimizer import AggregatingOptimizer
from tem_tf.checkpoint.array_files import Arrays
from tem_tf.checkpoint.parts import Json, Part, Randoms, parts_of
from tem_tf.checkpoint.saver import Saver
from tem_tf.checkpoint.stop_wish import SIGNALS, Stopped, StopWish
from tem_tf.cluster import task_of_resolver
from tem_tf.settings import settings_of, text_of
from tem_tf.worker_texts import WorkerTexts

_ASK_EVERY = 10  # Steps between two questions whether a worker was asked to stop.
# For how long the chief waits for the others' files, and the others for its commit.
COMMIT_SECONDS = 60.0


class SavedLoop:
    """What `Checkpoint` does in a loop of one's own; its arguments.

    Args:
        directory: See `Checkpoint`.
        every: As there.
        keep: As there.
        stop_signals: As there.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every: int = 100,
        keep: int = 2,
        stop_signals: Sequence[str] = SIGNALS,
    ):
        for name, value in (("every", every), ("keep", keep)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"`{name}` must be an integer >= 1. Received: {name}={value!r}"
                )
        if "://" in os.fspath(directory):
            raise ValueError(
                "`directory` must be a path in a file system that is mounted. "
                f"Received: directory={directory!r}"
            )
        self.directory = os.path.abspath(directory)  # Whatever os.chdir does later.
        self.every, self.keep = every, keep
        self.step = 0  # Steps that were taken, those before the last start included.
        self._wish = StopWish(stop_signals)
        self._saver: Saver | None = None
        self._texts: WorkerTexts | None = None
        self._saved = self._asked = (
            0  # Steps of the last checkpoint, the last question.
        )
        self._metrics: Deferred | None = None
        self._before_saving: Callable[[], None] | None = None

    def begin(
        self,
        model: keras.Model | None,
        optimizer: keras.optimizers.Optimizer,
        parts: Mapping[str, Part] | None = None,
        facts: Mapping[str, Any] | None = None,
        before_saving: Callable[[], None] | None = None,
    ) -> int:
        """Goes on from the newest checkpoint, if there is one.

        On all workers, outside `strategy.run`, when model and optimizer are built.

        Args:
            model: Whose variables are saved; None: those that the optimizer trains.
            optimizer: As passed to `compile`.
            parts: What else is saved, by name: a `tem_tf.checkpoint.Part` each.
            facts: What else must be as it was, in words by name, beside variables and
                the optimizer's settings.
            before_saving: Called on all workers before a copy is taken, for what is
                collective.

        Returns:
            Steps that were taken: 0 without a checkpoint.

        Raises:
            ValueError: see `Checkpoint`; the optimizer is not built; a part's name is
                taken.
        """
        if not getattr(optimizer, "built", False):
            raise ValueError(
                "`optimizer` must be a Keras optimizer that is built before a "
                "checkpoint begins: call "
                "`optimizer.build(model.trainable_variables)`. Received: "
                f"optimizer={optimizer!r}"
            )
        self.wait()
        self.step = 0
        ours = _without_loss_scale(optimizer)
        strategy = _internals.strategy_of(ours)
        self._texts = WorkerTexts(strategy)
        replicas = strategy.num_replicas_in_sync // self._texts.workers
        aggregator, known = None, settings_of(ours)
        if isinstance(ours, AggregatingOptimizer):
            aggregator = ours.aggregator
            known = aggregator.all_facts()
        known |= {name: text_of(value) for name, value in (facts or {}).items()}
        every_part = {
            **parts_of(model, optimizer, aggregator),
            "random": Randoms(replicas),
            "position": Json(self._position, self._go_on_from),
        }
        for name in parts or {}:
            if name in every_part or "/" in name:
                raise ValueError(
                    '`parts` must have names without "/", and other ones than '
                    f"{', '.join(every_part)}. Received: {name!r}"
                )
        every_part |= parts or {}
        if model is not None:
            self._metrics = every_part["metrics"] = Deferred(every_part["metrics"])
        self._saver = Saver(
            self.directory,
            self.keep,
            self._texts,
            _number_of_worker(strategy),
            every_part,
            known,
            COMMIT_SECONDS,
        )
        self._before_saving = before_saving
        self._wish.listen()  # From now on a wish is kept, to be granted between steps.
        try:
            self._saver.restore(replicas)
        except BaseException:
            self._wish.ignore()
            raise
        self._saved = self._asked = self.step
        return self.step

    def after(self, step: int) -> None:
        """Saves if it is time to; on all workers, between two steps.

        Args:
            step: Steps that were taken, equal on all workers.

        Raises:
            Stopped: a worker was asked to stop, and all have saved this step.
            ValueError: `step` is less than the last one, or none.
        """
        self._took(step)
        if self._agreed_to_stop():
            self._save_and_stop()
        if self._is_due():
            self._save()

    def end(self, step: int) -> None:
        """Saves the last step, and waits until that is written.

        Args:
            step: Steps that were taken.
        """
        self._took(step)
        self._finish()

    def wait(self) -> None:
        """Waits until what was to be written is."""
        if self._saver is not None:
            self._saver.wait()

    def _took(self, step: int) -> None:
        if self._saver is None:
            raise ValueError("A checkpoint must begin first. Call `begin`.")
        try:
            number = operator.index(step)
        except TypeError:
            number = -1
        if number < self.step:
            raise ValueError(
                "`step` must be the number of steps that were taken, an integer >= "
                f"{self.step}. Received: step={step!r}. Begin with the step that "
                "`begin` returned."
            )
        self.step = number
        heartbeat.beat()

    def _is_due(self) -> bool:
        return self.step // self.every > self._saved // self.every

    def _save(self) -> None:
        assert self._saver is not None
        if self._before_saving is not None:
            self._before_saving()
        self._saver.save(self.step)
        self._saved = self.step

    def _finish(self) -> None:
        assert self._saver is not None
        if self.step > self._saved:
            self._save()
        self._saver.wait()
        self._wish.ignore()

    def _agreed_to_stop(self) -> bool:
        """Whether a worker was asked to: all give the same answer at the same step."""
        assert self._texts is not None
        if self._texts.workers == 1:
            return self._wish.given
        if self.step // _ASK_EVERY == self._asked // _ASK_EVERY:
            return False
        self._asked = self.step
        return "stop" in self._texts.gather("stop" if self._wish.given else "")

    def _save_and_stop(self) -> NoReturn:
        assert self._saver is not None
        if self.step > self._saved:
            self._save()
        if not self._saver.is_committed(self.step):
            raise RuntimeError(
                f"Training was asked to stop, but step {self.step} could not be saved."
            )
        self._stop()

    def _stop(self) -> NoReturn:
        assert self._saver is not None
        self._saver.wait()
        self._wish.ignore()
        self._say(f"stops as asked after step {self.step}, saved at step {self._saved}")
        raise Stopped(self._saved)

    def _say(self, text: str) -> None:
        assert self._saver is not None
        if self._saver.is_chief:
            where = f"{self.directory}, step {self.step}"
            print(f"tem_tf: {where}: {text}", file=sys.stderr, flush=True)

    def _position(self) -> dict[str, Any]:
        """What is saved of where training is; JSON."""
        return {"step": self.step}

    def _go_on_from(self, position: dict[str, Any]) -> None:
        """Takes it back."""
        self.step = position["step"]


class Deferred(Part):
    """A part that is set when it is told to, and not where the others are.

    Args:
        part: The part.
    """

    def __init__(self, part: Part):
        self.is_shared = part.is_shared
        self._part = part
        self._states: Sequence[Arrays] | None = None

    def read(self):
        return self._part.read()

    def write(self, states):
        self._states = states

    def redistribute(self, states, replicas):
        return self._part.redistribute(states, replicas)

    def apply(self) -> None:
        """Sets them, once."""
        if self._states is not None:
            self._part.write(self._states)
        self._states = None


def _without_loss_scale(optimizer: Any) -> Any:
    """The optimizer that mixed_float16 has put another around."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer.inner_optimizer
    return optimizer


def _number_of_worker(strategy: tf.distribute.Strategy) -> int:
    if not _collective_internals.is_multi_worker(strategy):
        return 0
    task = task_of_resolver(strategy.cluster_resolver)
    return list(task.addresses).index(task.name)
