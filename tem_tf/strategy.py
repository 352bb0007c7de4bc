"""A MultiWorkerMirroredStrategy under which Keras 3's `fit` works."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tem_tf import _internals
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps

# How long workers wait for one another at the start. TensorFlow's default is an hour;
# ten minutes is our choice: long enough for machines that are started one by one.
START_TIMEOUT_SECONDS = 600


class MultiWorkerMirroredStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy`, repaired for Keras 3.

    Under TensorFlow's own, `model.fit` fails with two or more workers
    (keras-team/keras#20585): Keras calls `reduce` in two ways that it does not accept.
    This one accepts them; nothing in Keras is patched. `steps_per_execution` > 1, which
    fails there too, works. It also carries `SparsifiedCrossDeviceOps`, and checks the
    cluster's description before it waits for anybody.

    Args:
        cluster_resolver: `tf.distribute.cluster_resolver.ClusterResolver`. Default:
            the environment variable TF_CONFIG; without it, this process alone.
        communication_options: `tf.distribute.experimental.CommunicationOptions`.

    Raises:
        ValueError: TF_CONFIG is not JSON, has no workers, or names a task that is not
            in its cluster.
        OSError: this worker's port is in use.

    Example:

    ```python
    strategy = tem_tf.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = build_model()
        model.compile(optimizer=tem_tf.SparsifiedOptimizer(...), loss=...)
    model.fit(dataset)
    ```
    """

    def __init__(self, cluster_resolver=None, communication_options=None):
        if cluster_resolver is None:
            task = read_tf_config()
            if task is not None:
                _check_port_is_free(task["address"])
                _internals.configure_start_timeout(
                    task["cluster"], START_TIMEOUT_SECONDS
                )
        super().__init__(cluster_resolver, communication_options)
        _internals.take_instance_keys_at_the_call(self)
        _internals.wrap_cross_device_ops(self, SparsifiedCrossDeviceOps)

    def reduce(self, reduce_op, value, axis=None):
        """As in the base class, and the two further forms that Keras 3 uses.

        The mean of a nest of batches with axis=None, of which Keras needs but the
        shapes: this worker's own batch (batches may differ in length, so no collective
        could add them). A scalar with axis=0, Keras's logs: its mean over replicas, as
        there is no axis 0. Any other nest is reduced leaf by leaf.
        """
        if tf.nest.is_nested(value):
            leaves = tf.nest.flatten(value)
            if (
                axis is None
                and _is_mean(reduce_op)
                and all(map(self._is_batch, leaves))
            ):
                results = [self.experimental_local_results(v)[0] for v in leaves]
            else:
                results = [self.reduce(reduce_op, v, axis) for v in leaves]
            return tf.nest.pack_sequence_as(value, results)
        if axis == 0 and self.experimental_local_results(value)[0].shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)

    def _is_batch(self, value: Any) -> bool:
        if not isinstance(value, tf.distribute.DistributedValues):
            return False
        return self.experimental_local_results(value)[0].shape.rank != 0


def read_tf_config() -> dict[str, Any] | None:
    """Reads and checks the environment variable TF_CONFIG.

    Returns:
        None if it is not set or names no cluster; else a dict with `cluster` (as
        given), `type`, `index` (this task) and `address` ("host:port" of this task).

    Raises:
        ValueError: it is not JSON or does not describe this task.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    form = (
        'Expected for example {"cluster": {"worker": ["10.0.0.1:2222", '
        '"10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}.'
    )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The environment variable `TF_CONFIG` must be JSON: {error}. "
            f"Received: TF_CONFIG={text!r}. {form}"
        ) from None
    if not isinstance(config, dict):
        raise ValueError(
            "The environment variable `TF_CONFIG` must hold an object. "
            f"Received: TF_CONFIG={text!r}. {form}"
        )
    cluster, task = config.get("cluster", {}), config.get("task", {})
    if not cluster:
        return None
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise ValueError(
            "`cluster` and `task` in TF_CONFIG must be objects. "
            f"Received: TF_CONFIG={text!r}. {form}"
        )
    kind, index = task.get("type"), task.get("index")
    addresses = cluster.get(kind) if isinstance(kind, str) else None
    if kind not in ("worker", "chief") or not isinstance(addresses, list):
        raise ValueError(
            '`task.type` in TF_CONFIG must be "worker" or "chief" and have addresses '
            f"in `cluster`. Received: task.type={kind!r}, cluster={cluster!r}. {form}"
        )
    if isinstance(index, str) and index.isdecimal():  # Some launchers write "0".
        index = int(index)
    if type(index) is not int or not 0 <= index < len(addresses):
        raise ValueError(
            f"`task.index` in TF_CONFIG must be in [0, {len(addresses)}), the number "
            f"of {kind} addresses. Received: task.index={index!r}"
        )
    return {
        "cluster": cluster,
        "type": kind,
        "index": index,
        "address": str(addresses[index]),
    }


def is_chief() -> bool:
    """Whether this process writes what only one may write (checkpoints, logs)."""
    task = read_tf_config()
    if task is None or task["type"] == "chief":
        return True
    return task["index"] == 0 and "chief" not in task["cluster"]


def require_same_on_all_workers(
    strategy: tf.distribute.Strategy, values: Mapping[str, Any]
) -> None:
    """Raises on all workers if `values` are not equal on all of them.

    Collective: call it on every worker, right after the strategy is made, with what
    must not differ (the model's size, the compressor, the seed). Workers that differ
    would otherwise wait for one another for ever.

    Args:
        strategy: A strategy; one that lives in one process passes at once.
        values: JSON-serialisable values by name.

    Raises:
        ValueError: naming each difference and the workers.
    """
    if not _internals.is_multi_worker(strategy):
        return
    text = json.dumps(dict(values), sort_keys=True, default=str).encode()
    mine = tf.constant(np.frombuffer(text, np.uint8).astype(np.int32))
    exchange = SparsifiedCrossDeviceOps.of(strategy)

    @tf.function
    def gather():
        return strategy.run(lambda: exchange.gather_payloads(mine).rows)

    rows = strategy.experimental_local_results(gather())[0].numpy()
    rows = rows[:: rows.shape[0] // _number_of_workers(strategy)]
    workers = [json.loads(bytes(row[row > 0].astype(np.uint8))) for row in rows]
    differences = []
    for name in sorted(set().union(*workers)):
        seen = [json.dumps(worker.get(name, "absent")) for worker in workers]
        if len(set(seen)) > 1:
            each = ", ".join(f"worker {i}: {v}" for i, v in enumerate(seen))
            differences.append(f"`{name}` ({each})")
    if differences:
        raise ValueError(
            "All workers must be started with the same settings. They differ in "
            + "; ".join(differences)
        )


def _number_of_workers(strategy: tf.distribute.Strategy) -> int:
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def _is_mean(reduce_op: Any) -> bool:
    return reduce_op == tf.distribute.ReduceOp.MEAN or (
        isinstance(reduce_op, str) and reduce_op.upper() == "MEAN"
    )


def _check_port_is_free(address: str) -> None:
    port = address.rpartition(":")[2]
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(
            f'An address in TF_CONFIG must be "host:port". Received: {address!r}'
        )
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            raise OSError(
                f"This worker's port in TF_CONFIG must be free. Received: {address!r}, "
                f"and port {port} cannot be opened: {error.strerror}. Does an earlier "
                "run still hold it?"
            ) from None
