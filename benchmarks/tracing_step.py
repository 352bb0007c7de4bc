"""One worker's whole step, traced as if so many replicas sent: a figure of tracing.py.

    python benchmarks/tracing_step.py ROWS

`SparsifiedOptimizer.apply` on ResNet-18's 62 variables, under a strategy of one replica
whose exchange shows this worker's payload ROWS times. Prints JSON. Nothing but what
versions of the package have in common is used, so that PYTHONPATH may name another
checkout, and TEM_TF_NATIVE whether kernels are in use.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import tensorflow as tf
from resnet18 import resnet18_shapes

import tem_tf
from tem_tf import native
from tem_tf.cross_device_ops import Gathered, Traffic

THRESHOLD = 1e-3


class Repeated(tem_tf.SparsifiedCrossDeviceOps):
    """An exchange that brings this worker's payload as often as there are replicas."""

    rows = 1

    def gather_payloads(
        self, payload: tf.Tensor, *arguments: Any, **options: Any
    ) -> Gathered:
        """Gathers nothing; what follows the payload differs between versions."""
        repeated = tf.tile(payload[tf.newaxis], [self.rows, 1])
        return Gathered(repeated, Traffic.none(tf.constant(0, tf.int64)))

    def replicas(self) -> int:
        """As many as the rows."""
        return self.rows


def nodes_of(function: Any) -> int:
    """Nodes of a concrete function's graph and of all functions in it."""
    definition = function.graph.as_graph_def()
    functions = definition.library.function
    return len(definition.node) + sum(len(one.node_def) for one in functions)


def traced(rows: int) -> dict[str, Any]:
    """Traces one step.

    Returns:
        `trace_seconds` and `nodes`; `kernels`, whether they are in use.
    """
    Repeated.rows = rows
    ops = Repeated()
    tem_tf.SparsifiedCrossDeviceOps.of = classmethod(lambda cls, strategy: ops)
    weights = [keras.Variable(tf.zeros(shape)) for shape in resnet18_shapes()]
    optimizer = tem_tf.SparsifiedOptimizer(
        keras.optimizers.SGD(0.1), tem_tf.HardThreshold(THRESHOLD)
    )
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(gradients, weights)

    gradients = [tf.zeros(weight.shape) for weight in weights]
    began = time.perf_counter()
    concrete = step.get_concrete_function(gradients)
    seconds = time.perf_counter() - began
    return {
        "trace_seconds": seconds,
        "nodes": nodes_of(concrete),
        "kernels": native.status().in_use,
    }


if __name__ == "__main__":
    traced(1)  # What is slow but once.
    print(json.dumps(traced(int(sys.argv[1]))))
