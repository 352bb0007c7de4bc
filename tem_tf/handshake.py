"""Before the first exchange: do all workers train the same model in the same way?

    1. gather 5 words: a hash of what is fixed, a hash of the weights, the step
    2. where they differ, gather the texts and each variable's hash
    3. all workers say the same: what differs, and on whom

Once before the variables are made and once, under a condition, in the first step's
graph; in both places a worker without the wrapper has a collective of its own, so that
none waits for ever. Models whose variables differ in shape never come here:
TensorFlow itself fails where it sends the chief's initial values to the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tem_tf import _collective_internals
from tem_tf.cross_device_ops import SparsifiedCrossDeviceOps
from tem_tf.instance_keys import Use

_SHOWN = 3  # Variables that an error names, our choice.
_LONGEST = 160  # Characters of a value in an error, our choice.
_FACTORS = (0x2C1B3C6D, 0x297A2D39)  # Odd, with bits as many as not: our choice.
DIFFERENT = "Workers must train the same model in the same way"
_ADVICE = (
    " Keras numbers the names of layers and variables (dense_1), and one worker has "
    "made others before: give layers names, or call `keras.utils.clear_session()` "
    "before the model is made."
)


class Said(NamedTuple):
    """What one worker says of itself.

    Attributes:
        step: Of its optimizer.
        facts: Values by name.
        weights: A hash of each variable, by its name.
    """

    step: int
    facts: dict[str, str]
    weights: dict[str, int]


def handshake(
    ops: SparsifiedCrossDeviceOps,
    use: Use,
    facts: Mapping[str, str],
    weights: Mapping[str, tf.Tensor],
    step: tf.Tensor,
) -> tf.Tensor:
    """Compares what must not differ; on all replicas, in replica context.

    Args:
        ops: Of the strategy.
        use: Whose instance keys are taken.
        facts: Texts by name, fixed when the step is traced.
        weights: This replica's, by the variables' names.
        step: int64 scalar.

    Returns:
        String scalar, the same on all workers: how they differ. Empty if they do not.
    """
    text = json.dumps([dict(facts), list(weights)]).encode()
    digest = np.frombuffer(hashlib.sha256(text).digest()[:12], np.int32)
    hashes = tf.stack([tf.constant(0), *map(_hash, weights.values())])
    step = tf.cast(step, tf.int32)
    # 1
    words = tf.concat([digest, [_hash(hashes), step]], axis=0)
    rows = _gather_first(ops, words, use)

    def differ() -> tf.Tensor:
        # 2
        padded = np.frombuffer(text + bytes(-len(text) % 4), np.int32)
        head = [step, len(weights), len(text)]
        payload = tf.concat([head, hashes[1:], padded], axis=0)
        texts = ops.gather_payloads(payload, use.of("texts")).rows
        # 3
        each_worker = len(tf.distribute.get_strategy().extended.worker_devices)
        said = tf.numpy_function(_describe, [texts[::each_worker]], tf.string)
        return tf.ensure_shape(said, [])

    return tf.cond(tf.reduce_all(rows == rows[:1]), lambda: tf.constant(""), differ)


def require_same(said: tf.Tensor) -> tf.Tensor:
    """Ends the step with what `handshake` said, if that is something.

    Returns:
        Bool scalar, true.

    Raises:
        tf.errors.InvalidArgumentError: when run.
    """
    same = tf.equal(said, "")
    check = tf.debugging.Assert(same, [said], summarize=-1)
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(same)


@contextlib.contextmanager
def with_all_workers() -> Iterator[None]:
    """Says in words that another worker does something else, where TensorFlow finds so.

    Raises:
        ValueError: it takes part in another collective than this one.
    """
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.InternalError) as error:
        other = re.search("[^\n]*[Cc]ollective [Ii]nstance.*", str(error))
        if other is None:
            raise
        raise ValueError(
            f"{DIFFERENT}. Where they compare their settings, another worker does "
            "something else: has it no SparsifiedOptimizer, or another model? "
            f"TensorFlow says: {other[0].strip()}"
        ) from None


def _gather_first(
    ops: SparsifiedCrossDeviceOps, words: tf.Tensor, use: Use
) -> tf.Tensor:
    """All replicas' words, int32 (replicas, n)."""
    strategy = tf.distribute.get_strategy()
    all_gather = _collective_internals.collective_all_gather(strategy)
    if all_gather is None:
        return ops.gather_payloads(words, use).rows
    # TensorFlow's own next key: that of a plain worker's all-reduce of its gradients,
    # so that both end with an error where they would wait for ever.
    key = _collective_internals.next_instance_key(strategy)
    return tf.reshape(all_gather(words, key), [ops.replicas(), -1])


def _hash(tensor: tf.Tensor) -> tf.Tensor:
    """A number that changes with the bits of a tensor and their order: int32 scalar."""
    if tensor.dtype.is_bool:
        tensor = tf.cast(tensor, tf.int32)
    words = tf.int32 if tensor.dtype.size % 4 == 0 else tf.uint8
    bits = tf.cast(tf.reshape(tf.bitcast(tensor, words), [-1]), tf.int32)
    # Shifts between products, without which what is doubled everywhere cancels out.
    for factor in _FACTORS:
        bits = (bits ^ tf.bitwise.right_shift(bits, 15)) * factor
    bits ^= tf.bitwise.right_shift(bits, 13)
    return tf.reduce_sum(bits * (2 * tf.range(tf.size(bits)) + 1))


def _describe(rows: np.ndarray) -> bytes:
    """The error of workers whose payloads are these rows: int32 (workers, words)."""
    workers = [_read(row) for row in rows]
    differences = _of_facts([worker.facts for worker in workers])
    names = [list(worker.weights) for worker in workers]
    variables = _of_variables(names)
    differences += variables
    advice = _ADVICE if variables and _are_numbered_otherwise(names) else ""
    if not differences:
        if len({worker.step for worker in workers}) > 1:
            steps = _of_each([str(worker.step) for worker in workers])
            differences.append(f"the optimizer's `iterations` ({steps})")
        differences += _of_weights([worker.weights for worker in workers])
    what = "; ".join(differences)
    return f"{DIFFERENT}. They differ in {what}. Nothing was trained.{advice}".encode()


def _read(row: np.ndarray) -> Said:
    step, variables, length = map(int, row[:3])
    hashes = row[3 : 3 + variables].tolist()
    facts, names = json.loads(row[3 + variables :].tobytes()[:length])
    return Said(step, facts, dict(zip(names, hashes, strict=True)))


def _of_facts(facts: Sequence[Mapping[str, str]]) -> list[str]:
    names = dict.fromkeys(name for own in facts for name in own)
    values = {name: [own.get(name, "none") for own in facts] for name in names}
    found = [name for name in names if len(set(values[name])) > 1]
    # Of two classes the attributes tell no more.
    found = [name for name in found if name.rpartition(".")[0] not in found]
    return [f"`{name}` ({_of_each(values[name])})" for name in found]


def _of_each(values: Sequence[str]) -> str:
    shown = _around_difference(values) if max(map(len, values)) > _LONGEST else values
    return ", ".join(f"worker {i}: {value}" for i, value in enumerate(shown))


def _around_difference(values: Sequence[str]) -> list[str]:
    """Of each of several long texts the part in which they begin to differ."""
    begin = max(0, len(os.path.commonprefix(list(values))) - _LONGEST // 2)
    end = begin + _LONGEST
    return [
        "…" * (begin > 0) + value[begin:end] + "…" * (end < len(value))
        for value in values
    ]


def _are_numbered_otherwise(names: Sequence[list[str]]) -> bool:
    """Whether names of variables are the same but for the numbers that Keras adds."""
    return len({tuple(re.sub(r"_\d+", "", n) for n in own) for own in names}) == 1


def _of_variables(names: Sequence[list[str]]) -> list[str]:
    """Differences in number, name, shape, dtype and order of the variables."""
    longest = max(map(len, names))
    padded = [[*own, *["none"] * (longest - len(own))] for own in names]
    places = [
        f"trained variable {i} ({_of_each(each)})"
        for i, each in enumerate(zip(*padded, strict=True))
        if len(set(each)) > 1
    ]
    return _shown(places)


def _of_weights(weights: Sequence[dict[str, int]]) -> list[str]:
    return _shown(
        [
            f"the initial values of {name} ({_groups([own[name] for own in weights])})"
            for name in weights[0]
            if len({own[name] for own in weights}) > 1
        ]
    )


def _groups(values: Sequence[int]) -> str:
    """Which workers have the same value: "workers 0, 2 | 1"."""
    groups: dict[int, list[str]] = {}
    for i, value in enumerate(values):
        groups.setdefault(value, []).append(str(i))
    return "workers " + " | ".join(", ".join(group) for group in groups.values())


def _shown(places: list[str]) -> list[str]:
    more = len(places) - _SHOWN
    return [*places[:_SHOWN], *([f"{more} more variables"] if more > 0 else [])]
