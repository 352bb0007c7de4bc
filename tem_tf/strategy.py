"""A MultiWorkerMirroredStrategy under which Keras 3's `fit` works."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import tensorflow as tf

from tem_tf import _collective_internals, _internals, rendezvous, roll_call
from tem_tf.batch_logs import BatchLogs, ReadyLog, is_local
from tem_tf.cluster import (
    START_SECONDS,
    Rank,
    Task,
    check_public,
    check_start_seconds,
    find_task,
    task_of_resolver,
)
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.empty_batches import EmptyBatches
from tem_tf.fit_start import FitStart
from tem_tf.start_limit import limited, termination_kept

# How long TensorFlow's own start may take once all are there: it takes one or two, more
# where it sets up GPUs.
_SECONDS_TO_JOIN = 60.0


class MultiWorkerMirroredStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy`, repaired for Keras 3.

    Under TensorFlow's own, `model.fit` fails with two or more workers
    (keras-team/keras#20585): Keras calls `reduce` in two ways that it does not accept.
    This one accepts them; nothing in Keras is patched. `steps_per_execution` > 1, which
    fails there too, works. It also carries `SparsifiedCrossDeviceOps`, and checks the
    cluster's description before it waits for anybody. Of Keras's `ModelCheckpoint`,
    `CSVLogger`, `TensorBoard` and `BackupAndRestore` the chief's alone write where they
    are told to.

    Args:
        cluster_resolver: `tf.distribute.cluster_resolver.ClusterResolver`. Default:
            what the environment says: TF_CONFIG, torchrun, Open MPI, SLURM, a
            Kubernetes indexed Job (docs/clusters.md); if nothing, this process alone.
        communication_options: `tf.distribute.experimental.CommunicationOptions`.
        start_seconds: Float > 0, default 600. How long to wait for the other workers.
            Every 30 s a line on stderr names those that are missing. TensorFlow's own
            start, once all are there, has one minute more; it cannot be interrupted, so
            the process is killed then, after a line on stderr.
        refuse_public: Bool, default False. Whether an address that the whole internet
            can reach is an error and not a line on stderr: TensorFlow's server asks
            nobody who they are (SECURITY.md).
        batch_logs: "global", "local" or None (default), the same on all workers: what
            Keras logs while an epoch runs, and returns from `train_on_batch` and
            `test_on_batch`. None: "local" under `LocalUpdates`, else "global".
            "global": means over all workers, all of a step's in one collective.
            "local": this worker's own running values, without any. They
            differ between workers, so no callback may stop training, or do what all
            workers must do together, by a batch's logs: one worker would stop, and the
            others wait for it. An epoch's logs, `history` and `evaluate` are the same
            with both, over all workers: Keras takes them from the metrics. Logs that
            are no metrics, which a `train_step` of one's own may return, are global
            with both.

    Raises:
        ValueError: `batch_logs` is neither; TF_CONFIG is not JSON, has no workers, an
            address twice or jobs beside "worker" and "chief", or names a task that is
            not in its cluster; a scheduler's variables are wrong or missing; a public
            address is refused; workers were given different clusters.
        OSError: this worker's port is in use.
        TimeoutError: a worker is missing; the error names it.
        RuntimeError: TensorFlow has failed to start in this process before.

    Example:

    ```python
    strategy = tem_tf.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = build_model()
        model.compile(optimizer=tem_tf.SparsifiedOptimizer(...), loss=...)
    model.fit(dataset)
    ```
    """

    def __init__(
        self,
        cluster_resolver=None,
        communication_options=None,
        start_seconds: float = START_SECONDS,
        refuse_public: bool = False,
        batch_logs: str | None = None,
    ):
        check_start_seconds(start_seconds)
        self._batch_logs = BatchLogs(batch_logs)
        if cluster_resolver is None:
            task = _found_task(start_seconds)
            cluster_resolver = task and _resolver(task)
        else:
            task = task_of_resolver(cluster_resolver)
        if task is not None and "failed" in _START:
            raise RuntimeError(
                "TensorFlow has failed to join a cluster in this process, which cannot "
                f"try again: {_START['failed']}. Start the process anew."
            )
        # Once per process: a second strategy finds TensorFlow's server running.
        joins = task is not None and not _collective_internals.server_runs()
        with contextlib.ExitStack() as start:
            if task is not None and joins:
                check_public(task, refuse_public)
                rendezvous.meet(task, start_seconds)
                start.enter_context(
                    limited(
                        _SECONDS_TO_JOIN,
                        f"tem_tf: {task.name} ends: all workers were there, but "
                        f"TensorFlow has not started within {_SECONDS_TO_JOIN:g} s. "
                        "One of them has ended in between; see what it said.",
                    )
                )
                start.enter_context(termination_kept())
            elif task is not None:
                _check_cluster(task)
                start.enter_context(_collective_internals.server_kept())
            try:
                super().__init__(cluster_resolver, communication_options)
            except Exception as error:
                if joins and _collective_internals.server_runs():
                    _START["failed"] = f"{type(error).__name__}: {error}"
                raise
        if task is not None:
            _START["task"] = task
        _collective_internals.take_instance_keys_at_the_call(self)
        _collective_internals.wrap_cross_device_ops(self, SparsifiedCrossDeviceOps)
        self.empty_batches = EmptyBatches(len(self.extended.worker_devices))
        self._fit_start = FitStart(self, functools.partial(is_chief, self))

    @property
    def batch_logs(self) -> str | None:
        """What Keras logs while an epoch runs, as given."""
        return self._batch_logs.mode

    def run(self, fn, args=(), kwargs=None, options=None):
        """As in the base class; also notes which replicas' batches are empty.

        What Keras's trainer will log of a step is reduced at once (`batch_logs`). Where
        its optimizer goes on after gradients that are not finite, moving statistics are
        kept from empty batches. Where it leaves workers their own weights for a while
        (`LocalUpdates`), they are made common before a step of evaluation, and moving
        statistics with them.
        """
        model = _internals.model_of_step()
        evaluates = model is not None and fn == model.test_step
        if not _internals.in_xla():  # Where the note's variable might be out of reach.
            self.empty_batches.note(self, (args, kwargs))
            if _goes_on(model):
                statistics = [
                    v for v in model.non_trainable_variables if "float" in v.dtype
                ]
                fn = self.empty_batches.sparing(fn, statistics)
        run = super().run
        if model is not None and is_local(model):
            model.optimizer.average(_internals.moving_statistics(model))
            if evaluates:
                run(model.optimizer.synchronise_in_step)
        outputs = run(fn, args, kwargs, options)
        if model is None or not _collective_internals.is_multi_worker(self):
            return outputs
        return self._batch_logs.reduced(self, run, model, outputs)

    def experimental_distribute_dataset(self, dataset, options=None):
        """As in the base class; also where Keras's `fit` and `evaluate` begin.

        Raises:
            ValueError: workers have unequal numbers of batches.
        """
        self._fit_start.note(dataset)
        return super().experimental_distribute_dataset(dataset, options)

    def reduce(self, reduce_op, value, axis=None):
        """As in the base class, of nests too, and as Keras 3 needs it.

        Keras's trainer asks for two things that the base class cannot give. The mean of
        a batch, of which it needs but the shapes: it gets this worker's own batch, as
        batches may differ in length and hold integers or text. The mean of a logged
        scalar along its axis 0, which it has not: it gets the mean over replicas, which
        `run` has made ready where it can.

        Raises:
            ValueError: `value` has text, which several processes cannot add up.
        """
        if isinstance(value, ReadyLog):
            return value.mean
        asked = _internals.asked_by_keras()
        if asked == "batch":
            self._fit_start.note()  # Of data that the user has distributed.
            return tf.nest.map_structure(
                lambda v: self.experimental_local_results(v)[0], value
            )
        if asked == "log" and axis == 0 and self._rank(value) == 0:
            axis = None
        reduce = functools.partial(self._reduce_one, reduce_op, axis)
        if axis is None:  # MirroredStrategy takes nests, too.
            return tf.nest.map_structure(reduce, value)
        return reduce(value)

    def _reduce_one(self, reduce_op: Any, axis: int | None, value: Any) -> Any:
        """As in the base class, and of complex numbers, which no collective carries."""
        reduce = functools.partial(super().reduce, reduce_op, axis=axis)
        dtype = tf.convert_to_tensor(self.experimental_local_results(value)[0]).dtype
        if not _collective_internals.is_multi_worker(self):
            return reduce(value)
        if dtype == tf.string:
            raise ValueError(
                "`value` of `strategy.reduce` must hold numbers: text cannot be added "
                f"up over processes. Received: value={value!r}"
            )
        if dtype.is_complex:
            parts = [self.run(part, (value,)) for part in (tf.math.real, tf.math.imag)]
            return tf.complex(*map(reduce, parts))
        return reduce(value)

    def _rank(self, value: Any) -> int | None:
        return self.experimental_local_results(value)[0].shape.rank


def _found_task(start_seconds: float) -> Task | None:
    """This process's task by its environment, with all addresses."""
    task = find_task()
    if not isinstance(task, Rank):
        return task
    # The roll is called once per process: the first is busy with training afterwards.
    known = _START.get("task")
    return known or roll_call.answer(task, start_seconds)


def _check_cluster(task: Task) -> None:
    """Refuses another cluster than the one that this process is in.

    Raises:
        ValueError: it is another.
    """
    known = _START.get("task")  # None where TensorFlow's own strategy came first.
    if known is not None and (known.cluster, known.name) != (task.cluster, task.name):
        raise ValueError(
            "A process belongs to one cluster for life. Received: "
            f"{task.name} of {len(task.addresses)} workers, in a process that is "
            f"{known.name} of {len(known.addresses)}, or other addresses. Start "
            "another process."
        )


def _resolver(task: Task) -> Any:
    """What TensorFlow needs to know of a task."""
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({job: list(a) for job, a in task.cluster.items()}),
        task_type=task.type,
        task_id=task.index,
        rpc_layer="grpc",
    )


def _goes_on(model: Any) -> bool:
    """Whether training goes on where a worker's gradient was not finite."""
    optimizer = getattr(model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", None)  # Of a LossScaleOptimizer.
    modes = {getattr(one, "nonfinite", None) for one in (optimizer, inner)}
    return bool(modes & {"zero", "skip"})


# What this process's TensorFlow is for life: "task", for which it has made a strategy,
# or "failed", why it could not.
_START: dict[str, Any] = {}


def is_chief(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether this process is the one that writes (checkpoints, logs, results).

    That is the task "chief" of its cluster or, where there is none, worker 0; a process
    alone is it, too.

    Args:
        strategy: The strategy that is trained with. Default: the one in whose scope
            this is called; else the cluster for which this process has made a
            `MultiWorkerMirroredStrategy`; else that of the environment.

    Raises:
        ValueError: the environment's variables are wrong.
    """
    if strategy is None and tf.distribute.has_strategy():
        strategy = tf.distribute.get_strategy()
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is not None and _collective_internals.is_multi_worker(strategy):
        task = task_of_resolver(resolver)
    else:
        task = _START.get("task") or find_task()
    return task is None or task.is_chief
