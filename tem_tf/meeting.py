"""When workers are compared: before their variables are made, or in the first step."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tem_tf import _collective_internals, _internals
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.handshake import handshake, require_same, with_all_workers
from tem_tf.instance_keys import Use
from tem_tf.options import Options
from tem_tf.replica_state import ReplicaState
from tem_tf.settings import text_of
from tem_tf.version import VERSION

_MET = "handshake/met"


def facts_of(options: Options) -> dict[str, str]:
    """Options, versions and how the strategy logs, in words; in its scope."""
    logs = getattr(tf.distribute.get_strategy(), "batch_logs", None)
    return {
        **{
            field.name: text_of(getattr(options, field.name))
            for field in dataclasses.fields(options)
            if field.name != "masks"
        },
        **({"masks": repr(options.masks)} if options.masks else {}),
        "batch_logs": text_of(logs),
        "tem_tf": VERSION,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


class Meeting:
    """Compares all workers once, in facts and weights.

    Args:
        state: Where it is noted that they have met.
        use: Whose instance keys are taken.
        facts: Makes what must not differ, in words.
        weights: Makes the tensors that must be equal, by name, shape and dtype.
    """

    def __init__(
        self,
        state: ReplicaState,
        use: Use,
        facts: Callable[[], dict[str, str]],
        weights: Callable[[], dict[str, tf.Tensor]],
    ):
        self._state, self._use = state, use
        self._facts, self._weights = facts, weights
        # By graph, replicas that are compared in it before all that is in its branches.
        self._in_graphs: weakref.WeakKeyDictionary[Any, set[int]] = (
            weakref.WeakKeyDictionary()
        )

    def build(self) -> None:
        """Compares at once where it can, so that the error is a clean one.

        Where the variables are made within a step, the first exchange finds it out.

        Raises:
            ValueError: workers differ.
        """
        self._at_once()
        # A new process may meet other workers.
        self._state.add(_MET, tf.constant(False), saved=False, is_alike=True)

    def in_step(self, ops: SparsifiedCrossDeviceOps, step: tf.Tensor) -> None:
        """The same before the first exchange; replica context.

        Once in a graph: what stands in its branches comes after it.
        """
        strategy = tf.distribute.get_strategy()
        if not _collective_internals.is_multi_worker(strategy) or _internals.in_xla():
            return
        replica = int(tf.get_static_value(ops.replica()))
        graphs = list(_internals.graphs_around())
        if any(replica in self._in_graphs.get(graph, ()) for graph in graphs):
            return
        with _internals.conditions_as_one_op():
            met = tf.cond(
                self._state.read(_MET),
                lambda: tf.constant(True),
                lambda: require_same(self._compared(ops, step)),
            )
        self._state.assign(_MET, met)
        for graph in graphs[:1]:
            self._in_graphs.setdefault(graph, set()).add(replica)

    def _at_once(self) -> None:
        strategy = tf.distribute.get_strategy()
        multi_worker = _collective_internals.is_multi_worker(strategy)
        if not multi_worker or not tf.distribute.in_cross_replica_context():
            return
        ops = SparsifiedCrossDeviceOps.of(strategy)
        step = tf.constant(0)

        @tf.function
        def meet() -> tf.Tensor:
            return strategy.run(lambda: self._compared(ops, step))

        with with_all_workers():
            said = meet.get_concrete_function()()
        said = strategy.experimental_local_results(said)[0].numpy().decode()
        if said:  # Here and not in the graph, so that workers can go on.
            raise ValueError(said)

    def _compared(self, ops: SparsifiedCrossDeviceOps, step: tf.Tensor) -> tf.Tensor:
        return handshake(ops, self._use, self._facts(), self._weights(), step)
