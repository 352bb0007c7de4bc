"""One worker of memory.py: trains a perceptron in `fit` and says what memory that took.

The kernel's own record of the peak is set back between the parts of a training.
"""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

import keras
from memory import CASES, DENSITY, HARD, THRESHOLD, TOPK
from overhead import Training, Workload, images, momentum, of_classes, threshold
from worker_group import serve

import tem_tf

STEPS = 12  # Of each of two calls of `fit`.


def handle(request: tuple[str, int, bool, float]) -> Any:
    """Trains.

    Args:
        request: A name in memory.CASES, or memory.THRESHOLD; the width of the hidden
            layers; whether under MultiWorkerMirroredStrategy; the threshold.

    Returns:
        For memory.THRESHOLD a threshold. Else `parameters`; `density` where something
        is left out; `peak_bytes` of the process from before the model was made;
        `peak_of_steps_bytes`, of the second `fit`; `settled_bytes` after it.
    """
    case, width, grouped, value = request
    workload = Workload(
        lambda: perceptron(width), momentum, of_classes, images(784), STEPS
    )
    if case == THRESHOLD:
        return threshold(workload, 2 * STEPS)
    strategy = tem_tf.MultiWorkerMirroredStrategy() if grouped else None
    clear_peak()
    with strategy.scope() if strategy else contextlib.nullcontext():
        training = Training(workload, optimizer(case, value))
    peak = 0
    for _ in range(2):  # The first traces, and finds room for everything.
        peak = max(peak, resident_bytes("VmHWM"))
        clear_peak()
        training.run(STEPS - 1)
    settled = resident_bytes("VmRSS")  # First: each reading takes a little more.
    last = resident_bytes("VmHWM")
    answer = {
        "parameters": training.parameters,
        "peak_bytes": max(peak, last),
        "peak_of_steps_bytes": last,
        "settled_bytes": settled,
    }
    if isinstance(training.optimizer, tem_tf.SparsifiedOptimizer):
        summary = training.optimizer.communication_summary()
        answer["density"] = summary["density"]
    return answer


def perceptron(width: int) -> keras.Model:
    """Three hidden layers."""
    hidden = [keras.layers.Dense(width, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])


def optimizer(case: str, value: float) -> keras.optimizers.Optimizer:
    """The inner one, or a wrapper around it."""
    inner, compressors = (
        momentum(),
        {
            HARD: lambda: tem_tf.HardThreshold(value),
            TOPK: lambda: tem_tf.TopK(DENSITY, scope="model"),
        },
    )
    if case not in CASES:
        raise ValueError(f"There is no case {case!r}.")
    if case not in compressors:
        return inner
    return tem_tf.SparsifiedOptimizer(inner, compressors[case]())


def clear_peak() -> None:
    """Sets the record of the peak back to what is resident now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident_bytes(field: str) -> int:
    """VmHWM, the peak since it was cleared, or VmRSS, what is resident now."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (x for x in status.splitlines() if x.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    serve(handle)
